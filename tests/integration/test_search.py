"""The main job end to end, on a small network and a simulated device."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch

import autoprune
from autoprune.cli import main
from autoprune.core.errors import AutopruneError, ConfigError, RunError, RunVersionError
from autoprune.export.onnx import run_onnx
from autoprune.report import plain
from autoprune.testing.fake_profiler import FakeProfiler

TESTS = Path(__file__).parents[1]
FAKE = "autoprune.testing.fake_profiler:FakeProfiler"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A latency search with everything: table, verification, recovery, export."""
    run = tmp_path_factory.mktemp("runs") / "first"
    model = tiny_task.build()
    result = autoprune.search(
        model,
        tiny_task.inputs(),
        budget="latency=0.75x",
        evaluate=tiny_task.evaluate,
        calibration=tiny_task.calibration(),
        train=tiny_task.train(),
        recover={"epochs": 2},
        device=FakeProfiler(block=8, gmacs_per_s=2.0),
        searcher="random",
        trials=8,
        profile={"candidates": 8, "timeout_s": 3600},
        out=run,
    )
    return model, result, run


def test_the_budget_holds_as_measured(found):
    _, result, _ = found
    assert result.held
    assert result.verification.interval_ms[1] <= 0.75 * result.dense_cost.latency_ms
    assert result.cost.estimates["latency_ms"].source == "measured"
    assert result.cost.macs < result.dense_cost.macs


def test_the_model_is_smaller_and_the_users_is_as_it_was(found):
    model, result, _ = found
    count = sum(p.numel() for p in result.model.parameters())
    assert count == result.cost.params < sum(p.numel() for p in model.parameters())
    assert type(result.model) is type(model)
    fresh = tiny_task.build().state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in model.state_dict().items())


def test_recovery_does_not_lose_accuracy(found):
    _, result, _ = found
    before = result.metrics_before_recovery["accuracy"]
    assert result.accuracy >= before
    assert result.accuracy == tiny_task.evaluate(result.model)["accuracy"]


def test_what_was_exported_gives_the_same_output(found, tmp_path):
    _, result, run = found
    x = tiny_task.inputs()
    with torch.no_grad():
        expected = result.model(x).numpy()
    for path in (run / "pruned.onnx", result.export(tmp_path / "again.onnx")):
        graph = path.read_bytes()
        name = __import__("onnx").load(path).graph.input[0].name
        np.testing.assert_allclose(run_onnx(graph, {name: x.numpy()})[0], expected, atol=1e-4)
    program = torch.export.load(result.export(tmp_path / "again.pt2"))
    np.testing.assert_allclose(program.module()(x).detach().numpy(), expected, atol=1e-4)


def test_an_unknown_format_is_refused(found, tmp_path):
    with pytest.raises(ConfigError, match="onnx"):
        found[1].export(tmp_path / "x.tflite")


def test_result_json_says_what_the_issue_asks(found):
    _, result, run = found
    data = json.loads((run / "result.json").read_text())
    assert data == json.loads(json.dumps(result.data))
    assert data["held"] is True
    assert data["budget"]["asked"] == {"latency_ms": "0.75x"}
    assert data["winner"]["measured"]["ratio_interval"][1] <= 0.75
    assert set(data["winner"]["kept"]) == {"stem", "block1.conv1", "block2.conv1"}
    assert data["table"]["verified"] >= 1
    assert {"table", "evaluate", "measure", "recover", "total"} <= set(data["seconds"])
    assert data["versions"]["torch"] == torch.__version__
    assert data["device"]["name"] == "fake device"
    names = {p.name for p in run.iterdir()}
    assert {
        "config.yaml", "journal.log", "table.jsonl", "pruned.safetensors", "plan.json",
        "pruned.onnx", "dense.onnx",
    } <= names  # fmt: skip


def test_a_finished_run_is_read_not_run_again(found):
    model, result, run = found

    def never(_model):
        raise RuntimeError("evaluated again")

    again = autoprune.resume(run, model=model, example_inputs=tiny_task.inputs(), evaluate=never)
    assert again.candidate == result.candidate
    assert again.held
    assert again.data == json.loads(json.dumps(result.data))
    assert [t.candidate for t in again.trials] == [t.candidate for t in result.trials]
    x = tiny_task.inputs()
    with torch.no_grad():
        assert torch.allclose(again.model(x), result.model(x))


def test_the_network_is_loaded_by_itself(found):
    model, result, run = found
    loaded = autoprune.load(run, model)
    x = tiny_task.inputs()
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(x), result.model(x))


def test_a_run_from_python_needs_its_objects_again(found):
    with pytest.raises(ConfigError, match=r"autoprune\.resume\(run, model="):
        autoprune.resume(found[2])


def test_another_network_is_refused(found):
    other = tiny_task.build()
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(RunError, match="another network"):
        autoprune.resume(
            found[2], model=other, example_inputs=tiny_task.inputs(), evaluate=tiny_task.evaluate
        )


def test_the_folder_is_not_searched_in_again(found):
    with pytest.raises(RunError, match="holds a run already"):
        autoprune.search(
            tiny_task.build(),
            tiny_task.inputs(),
            budget="macs=0.5x",
            evaluate=tiny_task.evaluate,
            device=None,
            out=found[2],
        )


def test_a_newer_run_is_refused(found, tmp_path):
    config = (found[2] / "config.yaml").read_text()
    assert "schema_version: 1" in config
    (tmp_path / "config.yaml").write_text(config.replace("schema_version: 1", "schema_version: 9"))
    with pytest.raises(RunVersionError, match="newer autoprune"):
        autoprune.resume(tmp_path)


def quick(**settings):
    defaults = {
        "budget": "macs=0.5x",
        "evaluate": tiny_task.evaluate,
        "calibration": tiny_task.calibration(),
        "device": None,
        "searcher": "random",
        "trials": 4,
    }
    return autoprune.search(tiny_task.build(), tiny_task.inputs(), **{**defaults, **settings})


def test_several_bounds_hold_at_once():
    result = quick(budget={"macs": "0.6x", "params": 9000, "memory": "90kB"})
    assert result.held
    assert result.cost.macs <= 0.6 * result.dense_cost.macs
    assert result.cost.params <= 9000
    assert result.cost.memory_bytes <= 90_000


def test_a_loss_is_minimised():
    def loss(model):
        return {"loss": 1 - tiny_task.evaluate(model)["accuracy"] / 2}  # 0.5 of the dense network

    result = quick(objective="-loss", evaluate=loss, trials=6)
    assert result.accuracy == min(trial.metrics["loss"] for trial in result.trials)
    assert result.accuracy < max(trial.metrics["loss"] for trial in result.trials)
    assert result.accuracy == result.metrics["loss"] == -result.metrics["-loss"]
    assert "loss (less is better)" in plain(result.data)
    assert "-loss" not in plain(result.data)
    with pytest.raises(ConfigError, match="give -loss"):
        quick(objective="loss", evaluate=loss)


@pytest.mark.parametrize("importance", ["l2", "bn_scale", "taylor"])
def test_importances(importance):
    result = quick(importance=importance, train=tiny_task.train(), trials=2)
    assert result.held


def test_a_network_that_becomes_a_graph_is_measured_too():
    torch.manual_seed(0)
    result = autoprune.search(
        tiny_task.Padded().eval(),
        tiny_task.inputs(),
        budget="macs=0.6x",
        evaluate=lambda model: float(model(tiny_task.inputs()).std()),
        device=FakeProfiler(),
        searcher="random",
        trials=3,
    )
    assert result.verification.measurement.ok
    assert result.verification.latency_ms < result.dense_cost.latency_ms


def test_the_same_seed_gives_the_same_trials():
    runs = [[(t.candidate, t.score()) for t in quick(seed=seed).trials] for seed in (5, 5, 6)]
    assert runs[0] == runs[1]
    assert [c for c, _ in runs[0]] != [c for c, _ in runs[2]]


def test_failing_evaluations_are_trials_until_too_many():
    calls = []

    def sometimes(model):
        calls.append(1)
        if len(calls) in (2, 3):
            raise ValueError("no data today")
        return tiny_task.evaluate(model)

    result = quick(evaluate=sometimes)
    assert [t.ok for t in result.trials] == [False, False, True, True]
    assert "ValueError: no data today" in result.trials[0].error
    assert result.data["trials"]["failed"] == 2
    calls.clear()

    def only_dense(model):
        calls.append(1)
        return 1.0 if len(calls) == 1 else float("nan")

    with pytest.raises(autoprune.AutopruneError, match=r"3 evaluations in a row.*nan"):
        quick(evaluate=only_dense, max_failures=3)


def test_a_device_that_is_not_there_is_only_needed_for_latency():
    gone = {"device": "command", "device_options": {"program": "no-such-program"}}
    result = quick(**gone)
    assert result.held
    assert "nothing was measured" in " ".join(result.data["notes"])
    with pytest.raises(AutopruneError, match="no-such-program"):
        quick(budget="latency=0.5x", **gone)
    with pytest.raises(AutopruneError, match="Did you mean 'onnxruntime-cpu'"):
        quick(device="onnxruntime-cu")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_shows_and_tells(tmp_path, monkeypatch, capfd, as_json):
    monkeypatch.chdir(TESTS)
    out = tmp_path / "run"
    arguments = (
        "autoprune search --model tiny_task:build --inputs 2x3x8x8 --evaluate tiny_task:evaluate "
        "--calibration tiny_task:calibration --budget macs=0.6x --trials 3 --searcher random "
        f"--out {out} " + ("--json --set device=null" if as_json else f"--device {FAKE}")
    ).split()
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (0, None)
    shown = capfd.readouterr()
    assert (out / "trials.png").is_file()
    if as_json:
        assert json.loads(shown.out)["held"] is True
    else:
        assert "budget held: macs" in shown.out
        assert "tracing the network" in shown.err
    if as_json:
        return
    for command, expected in (
        (["verify", out], "measured now"),
        (["export", out, "--out", tmp_path / "x.onnx"], ""),
        (["resume", out], "budget held"),
    ):
        monkeypatch.setattr("sys.argv", ["autoprune", *map(str, command)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code in (0, None)
        assert expected in capfd.readouterr().out
    assert (tmp_path / "x.onnx").stat().st_size > 1000


def test_profile_writes_a_table_that_a_search_takes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(TESTS)
    fake = "device={name: autoprune.testing.fake_profiler:FakeProfiler, options: {block: 8}}"
    table = tmp_path / "table.jsonl"
    model = ["--model", "tiny_task:build", "--inputs", "2x3x8x8", "--set", fake]
    monkeypatch.setattr(
        "sys.argv",
        [
            "autoprune",
            "profile",
            *model,
            "--candidates",
            "8",
            "--timeout",
            "3600",
            "--out",
            str(table),
        ],
    )
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capfd.readouterr()
    assert caught.value.code in (0, None), shown.err
    assert "held-out candidates: median" in shown.out
    searched = ["--evaluate", "tiny_task:evaluate", "--budget", "latency=0.8x", "--trials", "3"]

    def never(*_, **__):
        raise RuntimeError("measured again")

    monkeypatch.setattr("autoprune.study.table.measure_table", never)
    monkeypatch.setattr(
        "sys.argv", ["autoprune", "search", *model, *searched, "--table", str(table), "--json"]
    )
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capfd.readouterr()
    assert caught.value.code in (0, None), shown.err
    assert json.loads(shown.out)["held"] is True
