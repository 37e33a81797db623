"""A latency table of another machine from the command line, the connection cut, and a search."""

import json
from pathlib import Path

import pytest
import ssh_server

from autoprune.cli import main
from autoprune.core.device import MeasuringProtocol
from autoprune.cost.table import LatencyTable
from autoprune.testing.profilers import conv_artifact

TESTS = Path(__file__).parent.parent
NETWORK = ["--model", "tiny_task:build", "--inputs", "tiny_task:inputs"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def run(monkeypatch, capfd, *arguments):
    """What the command prints, and its exit status."""
    monkeypatch.setattr("sys.argv", ["autoprune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return capfd.readouterr(), caught.value.code or 0


def test_a_table_of_another_machine_and_a_search_with_it(server, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(TESTS)
    cut = ssh_server.Cut(monkeypatch, lambda count, number: count == 30)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{server.python.replace(" ", " exec ", 1)} "$@"\n')
    python.chmod(0o755)
    address = (
        f"{server.address}?runtime=onnxruntime-cpu&threads=1&python={python}&timeout_s=30"
        f"&ssh=ssh+-F+{server.folder}/config"
    )
    common = [*NETWORK, "--device", address]
    table = tmp_path / "table.jsonl"
    shown, status = run(
        monkeypatch, capfd, "profile", *common, "--candidates", 8, "--out", table
    )  # fmt: skip
    assert status == 0, shown.err
    assert cut.cuts == 1
    assert f"table: {table}" in " ".join(shown.out.split("\n"))
    read = LatencyTable.load(table)
    assert read.metrics == ("latency_ms",)
    assert read.reference_ms > 0
    assert read.device.details["over"].endswith("@127.0.0.1")

    shown, status = run(
        monkeypatch, capfd, "search", *common, "--table", table, "--json", "--trials", 3,
        "--evaluate", "tiny_task:evaluate", "--searcher", "random", "--out", tmp_path / "run",
        "--budget", "latency=0.8x",
        "--set", "verify={top: 1, rounds: 1, timeout_s: 2}",
    )  # fmt: skip
    result = json.loads(shown.out)
    assert status == (0 if result["held"] else 1), shown.err
    assert result["seconds"]["table"] < 5
    assert result["winner"]["measured"]["latency_ms"] > 0


def test_a_device_that_throttles_is_found_out_from_there(server, monkeypatch):
    # From the 12th visit on it takes 5 times as long, until the 19th; only the reference tells.
    ssh_server.agent_with(
        monkeypatch,
        b"        times = []\n",
        b"        times = []\n"
        b'        self.visits = getattr(self, "visits", 0) + 1\n'
        b"        slow = 5.0 if 12 <= self.visits < 19 else 1.0\n",
    )
    ssh_server.agent_with(
        monkeypatch, b"(clock() - start) / 1e6", b"slow * (clock() - start) / 1e6"
    )
    protocol = MeasuringProtocol(warmup=1, runs=3, min_rounds=6, max_rounds=20, timeout_s=20)
    networks = [conv_artifact("dense", 48, layers=3), conv_artifact("same", 48, layers=3)]
    _, same = server.profiler().measure(networks, protocol)
    assert same.ok
    assert "rounds are left out, as the device did not hold its speed" in same.notes[0]
    assert "times as long as usual" in same.notes[0]
    assert len(same.samples_ms) >= protocol.min_rounds
    assert max(same.samples_ms) < 4 * min(same.samples_ms)
    assert 0.7 < same.ratio < 1.4
