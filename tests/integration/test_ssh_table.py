"""A latency table of another machine from the command line, the connection cut, and a search."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import ssh_server

from autoprune.cli import main
from autoprune.core.device import MeasuringProtocol
from autoprune.cost.table import LatencyTable
from autoprune.profile import measuring, ssh_session
from autoprune.study import device
from autoprune.testing.profilers import conv_artifact

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def test_a_search_with_a_table_of_another_machine_and_the_connection_cut(
    server, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(TESTS)
    # The table need not be a good one: short visits, few rounds, and time enough to reconnect,
    # on a busy machine too.
    monkeypatch.setattr(measuring, "BLOCK_MS", 2.0)
    monkeypatch.setattr(device, "LEARNING", replace(device.LEARNING, width=0.5, timeout_s=300.0))
    monkeypatch.setattr(ssh_session, "ANSWER_S", 300.0)
    opened = ssh_server.Opened(monkeypatch).sessions
    folder = tmp_path / "run"
    later = []  # visits when there is a table: those of a verification

    def when(count, number):
        later.extend([count] if (folder / "table.jsonl").exists() else [])
        return count == 30 or later == [count]

    cut = ssh_server.Cut(monkeypatch, when)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{server.python.replace(" ", " exec ", 1)} "$@"\n')
    python.chmod(0o755)
    address = (
        f"{server.address}?runtime=onnxruntime-cpu&threads=1&python={python}&timeout_s=300"
        f"&ssh=ssh+-F+{server.folder}/config"
    )
    arguments = [
        "search", "--model", "tiny_task:build", "--inputs", "tiny_task:inputs",
        "--evaluate", "tiny_task:evaluate", "--device", address, "--budget", "latency=0.95x",
        "--searcher", "random", "--trials", 2, "--json", "--out", folder,
        "--set", "profile={candidates: 8, timeout_s: 3600, reuse: false}",
        "--set", "verify={top: 1, rounds: 1, timeout_s: 300, width: 0.3}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["autoprune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capfd.readouterr()
    assert caught.value.code in (0, None, 1), shown.err
    result = json.loads(shown.out)
    assert result["held"] == (not caught.value.code)
    assert result["winner"]["measured"]["latency_ms"] > 0

    # One connection for all of it, opened anew each time it was cut; gone when the run is over.
    assert min(later) > 30
    assert cut.cuts == 2
    assert len(opened) == 3
    assert all(session.closed for session in opened)
    assert server.idle()

    profiler = server.profiler()
    table = LatencyTable.load(folder / "table.jsonl", profiler.device)
    assert table.metrics == ("latency_ms",)
    assert table.reference_ms > 0
    assert table.info["build"]["candidates"] == 8
    assert table.info["build"]["failed"] == 0
    assert table.device.details["over"].endswith("@127.0.0.1")


def test_a_device_that_throttles_is_found_out_from_there(server, monkeypatch):
    # From the 12th visit on it takes 5 times as long, until the 19th; only the reference tells.
    # A run takes 2 ms there, whatever else this machine has to do.
    ssh_server.agent_with(
        monkeypatch,
        b"            times = network.times_ms(runs)\n",
        b'            self.visits = getattr(self, "visits", 0) + 1\n'
        b"            network.run(runs)\n"
        b"            times = [10.0 if 12 <= self.visits < 19 else 2.0] * runs\n",
    )
    protocol = MeasuringProtocol(warmup=1, runs=3, min_rounds=6, max_rounds=20, timeout_s=300)
    networks = [conv_artifact("dense", 48, layers=3), conv_artifact("same", 48, layers=3)]
    _, same = server.profiler().measure(networks, protocol)
    assert same.ok
    assert "rounds are left out, as the device did not hold its speed" in same.notes[0]
    assert "times as long as usual" in same.notes[0]
    assert len(same.samples_ms) >= protocol.min_rounds
    assert max(same.samples_ms) < 4 * min(same.samples_ms)
    assert 0.7 < same.ratio < 1.4
