"""`autoprune table` and `autoprune profile --reuse`, on a fake device."""

import json
import math
import sys
from pathlib import Path

import pytest

from autoprune.cli import main
from autoprune.cli.tables import run_check
from autoprune.cost.build import Accuracy
from autoprune.cost.check import TableCheck

TESTS = Path(__file__).parents[2]
FAKE = "autoprune.testing.fake_profiler:FakeProfiler"
NETWORK = ("--model", "tiny_task:build", "--inputs", "2x3x8x8")


@pytest.fixture(scope="module")
def call():
    """Runs a command in this process: (status, stdout, stderr)."""

    def run(monkeypatch, capsys, *arguments):
        monkeypatch.chdir(TESTS)
        monkeypatch.setattr(sys, "argv", ["autoprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def tables(tmp_path_factory, call):
    """Two tables of the tiny network, the second with the first's kernels reused."""
    folder = tmp_path_factory.mktemp("tables")
    paths = [folder / "first.jsonl", folder / "second.jsonl"]
    common = ("profile", *NETWORK, "--device", FAKE, "--candidates", "12", "--timeout", "3600")
    with pytest.MonkeyPatch.context() as patch:
        for seed, path in enumerate(paths):
            reuse = () if seed == 0 else ("--reuse", paths[0])
            patch.chdir(TESTS)
            patch.setattr(
                sys, "argv",
                ["autoprune", *map(str, (*common, "--seed", seed, "--out", path, *reuse))],
            )  # fmt: skip
            with pytest.raises(SystemExit) as caught:
                main()
            assert not caught.value.code
    return paths


def test_show_tells_the_header_and_each_group(monkeypatch, capsys, call, tables):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = call(monkeypatch, capsys, "table", "show", tables[1])
    assert status == 0
    assert "12 candidates in" in out
    assert "tiny_task:build" in out
    assert "timeout_s" in out
    assert "kernels reused" in out
    assert "block1.conv1" in out
    assert "plateau edges" in out
    status, out, _ = call(monkeypatch, capsys, "table", "show", tables[0], "--json")
    told = json.loads(out)
    assert status == 0
    assert told["schema"] == 2
    groups = {row["group"]: row for row in told["groups"]}
    assert groups["block1.conv1"]["units"] == 32
    assert groups["block1.conv1"]["edges"][-1] == 32
    assert told["info"]["protocol"]["width"] > 0
    assert told["info"]["inputs"] == "2x3x8x8"


@pytest.mark.parametrize(
    ("off", "limit", "told"),
    [
        (0.01, 0.03, "the table holds\n"),
        (0.17, 0.2, "poor from the start: measure it again"),
        (0.17, 0.1, "the table does not hold: measure it again"),
    ],
)
def test_a_table_that_holds_may_be_poor(monkeypatch, capsys, tables, off, limit, told):
    found = Accuracy(8, off, math.nan, 2 * off, 0.9, 0.9, 0.01)
    checked = TableCheck(found, limit, 1.0, 1.0, 0, "samples")
    monkeypatch.setattr("autoprune.study.profiling.check_config", lambda *_, **__: checked)
    monkeypatch.setenv("COLUMNS", "120")
    options = {"samples": 8, "timeout_s": 1.0, "seed": 0, "as_json": False}
    status = run_check(tables[0], None, {}, **options)
    assert told in capsys.readouterr().out
    assert status == (0 if off <= limit else 1)


def test_check_finds_the_network_in_the_header(monkeypatch, capsys, call, tables):
    arguments = ("table", "check", tables[0], "--samples", "8", "--timeout", "3600")
    status, out, _ = call(monkeypatch, capsys, *arguments, "--json")
    told = json.loads(out)
    assert status == (0 if told["holds"] else 1)
    assert told["found"]["candidates"] == 8
    status, out, _ = call(monkeypatch, capsys, *arguments)
    assert ("the table holds" in out) == (status == 0)
    assert "dense network" in out
    other = ("--inputs", "4x3x8x8")
    status, _, err = call(monkeypatch, capsys, *arguments, *other)
    assert status == 2
    assert "no measurement of this one" in err
    status, _, err = call(monkeypatch, capsys, *arguments, "--device", "onnxruntime-cpu")
    assert status == 2
    assert "was measured on another device" in err


def test_diff_and_merge(monkeypatch, capsys, call, tables, tmp_path):
    first, second = tables
    status, out, _ = call(monkeypatch, capsys, "table", "diff", first, second, "--json")
    told = json.loads(out)
    assert status == (1 if told["beyond_noise"] else 0)
    assert told["same_network"]
    status, out, _ = call(monkeypatch, capsys, "table", "diff", first, first)
    assert status == 0
    assert "agree within the noise" in out
    merged = tmp_path / "merged.jsonl"
    status, out, _ = call(monkeypatch, capsys, "table", "merge", first, second, "--out", merged)
    assert status == 0
    assert "of 2 tables" in out
    status, out, _ = call(monkeypatch, capsys, "table", "show", merged)
    assert status == 0
    status, _, err = call(monkeypatch, capsys, "table", "merge", first, "--out", merged)
    assert status == 2
    assert "two tables or more" in err


@pytest.mark.parametrize("name", ["show", "check"])
def test_what_is_no_table_is_refused(monkeypatch, capsys, call, name, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n")
    for wrong in (path, tmp_path / "nowhere.jsonl"):
        status, out, err = call(monkeypatch, capsys, "table", name, wrong)
        assert status == 2
        assert "latency table" in err
        assert "Traceback" not in err
        assert out == ""
