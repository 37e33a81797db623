"""Fronts, families of budgets, networks picked off them, and why a winner is as fast as it is."""

import io
import json
import re

import pytest
import tiny_task

import autoprune
from autoprune.core.errors import BudgetError, ConfigError, RunError
from autoprune.report import (
    explain_picture,
    explain_table,
    family_table,
    front_picture,
    front_table,
)
from autoprune.study.config import validate
from autoprune.study.config_files import read_yaml, write_yaml
from autoprune.study.explaining import explain_run
from autoprune.study.progress import Progress
from autoprune.testing.fake_profiler import FakeProfiler

TASK = {"evaluate": tiny_task.evaluate, "calibration": tiny_task.calibration()}
NETWORK = {"model": tiny_task.build(), "example_inputs": tiny_task.inputs()}
FAKE = "autoprune.testing.fake_profiler:FakeProfiler"


def text_of(renderable):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=100).print(renderable)
    return stream.getvalue()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """A front of accuracy against latency of a simulated device, and parameters."""
    out = tmp_path_factory.mktemp("runs") / "front"
    return autoprune.search(
        **NETWORK,
        **TASK,
        objectives=["accuracy", "latency", "params"],
        front={"points": 5},
        device=FAKE,
        device_options={"block": 8, "gmacs_per_s": 2.0},
        profile={"candidates": 8, "timeout_s": 3600},
        trials=14,
        out=out,
    )


def test_every_point_of_a_front_is_measured_and_none_dominates_another(front):
    points = front.front["points"]
    assert 2 <= len(points) <= 5
    assert all(point["measured"]["error"] is None for point in points)
    figures = [
        (p["metrics"]["accuracy"], -p["cost"]["latency_ms"]["mean"], -p["cost"]["params"]["mean"])
        for p in points
    ]
    for one in figures:
        assert not any(
            other != one and all(o >= v for o, v in zip(other, one, strict=True))
            for other in figures
        )
    for point in points:
        low, high = point["cost"]["latency_ms"]["interval"]
        assert low <= point["cost"]["latency_ms"]["mean"] <= high
        assert point["cost"]["latency_ms"]["source"] == "measured"
    assert json.loads((front.folder / "pareto.json").read_text()) == front.front
    assert not set(front.front["dominated"]) & {point["trial"] for point in points}


def test_what_is_worse_than_the_worst_is_not_on_the_front():
    asked = {**NETWORK, **TASK, "objectives": ["accuracy", "macs"], "trials": 8}
    result = autoprune.search(**asked, front={"worst": {"accuracy": 0.6}})
    shown = {point["trial"] for point in result.front["points"]}
    assert any(trial.score() < 0.6 for trial in result.trials)
    assert shown
    assert all(trial.score() >= 0.6 for trial in result.trials if trial.number in shown)
    for worst, said in (
        ({"macs": 1e6}, r"front.worst must name metrics among the objectives \(accuracy\)"),
        ({"accuracy": 60}, "the dense network's accuracy is .*, worse than 60.*ask for less"),
    ):
        with pytest.raises(ConfigError, match=said):
            autoprune.search(**asked, front={"worst": worst})


def test_a_front_is_resumed_as_it_was(front):
    again = autoprune.resume(front.folder, **NETWORK, **TASK)
    assert again.front == front.front


def test_a_front_is_shown(front, tmp_path):
    text = text_of(front_table(front.front))
    for point in front.front["points"]:
        assert f"{point['metrics']['accuracy']:.4f}" in text
    picture = autoprune.draw(front, tmp_path / "front.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="point"):
        front_picture({**front.front, "points": []}, front.trials, tmp_path / "none.png")


def test_a_network_is_picked_off_a_front(front, tmp_path):
    budget = "latency=0.8x"
    picked = autoprune.pick(front.folder, budget, out=tmp_path / "picked", **NETWORK, **TASK)
    assert picked.held
    best = max(
        t.score()
        for t in front.trials
        if t.measured is not None
        and t.measured.latency_ms <= picked.limits.limits["latency_ms"].value
    )
    assert picked.metrics_before_recovery["accuracy"] >= best
    files = {path.name for path in (tmp_path / "picked").iterdir()}
    assert {"result.json", "config.yaml", "pruned.onnx", "pruned.safetensors"} <= files
    again = autoprune.load(tmp_path / "picked", tiny_task.build()).eval()
    assert tiny_task.evaluate(again)["accuracy"] == pytest.approx(picked.accuracy)
    with pytest.raises(RunError, match="holds a run already"):
        autoprune.pick(front.folder, budget, out=tmp_path / "picked", **NETWORK, **TASK)


def test_what_no_network_of_a_run_holds_is_told_with_what_the_nearest_would(front, tmp_path):
    with pytest.raises(BudgetError, match=r"nearest would hold latency_ms=0\.\d+x") as caught:
        autoprune.pick(front.folder, "latency=0.001x", out=tmp_path / "p", **NETWORK, **TASK)
    would = re.search(r"would hold (\S+)\. Ask", str(caught.value))[1]
    assert autoprune.pick(front.folder, would, out=tmp_path / "q", **NETWORK, **TASK).held
    assert not (tmp_path / "p").exists()
    with pytest.raises(BudgetError, match="energy_mj"):
        autoprune.pick(front.folder, "energy=0.5x", out=tmp_path / "p", **NETWORK, **TASK)


def test_each_layer_of_a_winner_is_explained(front, tmp_path):
    data = explain_run(front.folder, Progress())
    assert data["source"] == "measured"
    names = [row["layer"] for row in data["layers"]]
    assert names == ["stem", *(f"block{b}.conv{c}" for b in (1, 2) for c in (1, 2)), "head"]
    assert sum(row["dense_ms"] for row in data["layers"]) == pytest.approx(data["dense_ms"])
    assert json.loads((front.folder / "explain.json").read_text()) == data
    text = text_of(explain_table(data))
    assert "block2.conv1" in text
    assert explain_picture(data, tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_plateaus_and_layers_that_are_no_faster_are_told(front, tmp_path):
    """Of 32 channels 25 are kept; the device works in blocks of 8, so all 32 take as long."""
    picked = autoprune.pick(front.folder, "latency=1x", out=tmp_path / "run", **NETWORK, **TASK)
    data = picked.data
    from autoprune.core.candidate import Candidate
    from autoprune.export.onnx import export_onnx
    from autoprune.graph import trace
    from autoprune.pruning import prune

    network = trace(*NETWORK.values())
    kept = {g.name: 25 if g.units == 32 else g.units for g in network.groups}
    pruned = prune(network, Candidate.of(kept))
    folder = tmp_path / "run"
    (folder / "pruned.onnx").write_bytes(export_onnx(pruned, (tiny_task.inputs(),)))
    data["winner"]["kept"] = {g.name: {"kept": kept[g.name], "of": g.units} for g in network.groups}
    (folder / "result.json").write_text(json.dumps(data))
    (folder / "table.jsonl").write_bytes((front.folder / "table.jsonl").read_bytes())
    told = explain_run(folder, Progress())
    rows = {row["layer"]: row for row in told["layers"]}
    assert rows["block1.conv1"]["no_faster"]
    assert rows["block1.conv1"]["pruned_channels"] == [16, 25]
    assert not rows["stem"]["no_faster"]
    assert "no faster" in text_of(explain_table(told))


def test_without_its_device_a_run_is_explained_by_its_table(front, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(front.folder, folder, ignore=shutil.ignore_patterns("*.lock", ".lock"))
    config = validate(read_yaml(folder / "config.yaml"), "test")
    device = config.device.model_copy(update={"name": "ssh://nobody@127.0.0.1:1", "options": {}})
    (folder / "config.yaml").write_text(write_yaml(config.model_copy(update={"device": device})))
    told = explain_run(folder, Progress())
    assert told["source"] == "table"
    assert any("table's records are shown" in note for note in told["notes"])
    assert "by the latency table's records" in text_of(explain_table(told))
    measured = {row["layer"]: row for row in explain_run(front.folder, Progress())["layers"]}
    for row in told["layers"]:
        assert row["dense_ms"] == pytest.approx(measured[row["layer"]]["dense_ms"], rel=0.05)


def test_a_run_without_a_device_can_not_be_explained(tmp_path):
    run = autoprune.search(
        **NETWORK, **TASK, budget="macs=0.6x", device=None, trials=2, out=tmp_path / "run"
    )
    with pytest.raises(RunError, match="no measured network"):
        explain_run(run.folder, Progress())


FAMILY = {"budget": {"macs": ["0.4x", "0.8x"]}, "device": None, "trials": 8, "seed": 2}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "family"
    return autoprune.search(**NETWORK, **TASK, **FAMILY, out=out)


def test_each_budget_of_a_family_has_a_winner_and_a_folder(family, tmp_path):
    loose, tight = family.family
    assert (loose.budget.limits["macs"].value, tight.budget.limits["macs"].value) == (0.8, 0.4)
    assert loose.held
    assert tight.held
    assert loose.accuracy >= tight.accuracy
    assert len(loose.trials) == 8
    folder = family.folder.parent
    told = json.loads((folder / "family.json").read_text())
    assert [member["folder"] for member in told["members"]] == ["macs-0.8x", "macs-0.4x"]
    for member, result in zip(told["members"], family.family, strict=True):
        assert result.folder == folder / member["folder"]
        own = json.loads((result.folder / "result.json").read_text())
        assert own["winner"]["trial"] == member["winner"]["trial"]
    text = text_of(family_table(told))
    assert "macs-0.4x" in text
    picture = autoprune.draw(family)
    assert picture == folder / "family.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_trial_counts_for_every_budget_that_it_holds(family):
    for member in family.family:
        limit = member.limits.limits["macs"].value
        best = max(t.score() for t in family.trials if t.ok and t.predicted.macs <= limit)
        assert member.metrics_before_recovery["accuracy"] >= best


def test_a_finished_family_is_read_and_names_its_folders(family):
    folder = family.folder.parent
    again = autoprune.resume(folder, **NETWORK, **TASK)
    assert [r.data for r in again.family] == [r.data for r in family.family]
    assert [t.candidate for t in again.trials] == [t.candidate for t in family.trials]
    with pytest.raises(RunError, match=r"macs-0\.8x, macs-0\.4x"):
        explain_run(folder, Progress())


def test_networks_are_picked_off_a_family(family, tmp_path):
    picked = autoprune.pick(
        family.folder.parent, "macs=0.8x", out=tmp_path / "p", **NETWORK, **TASK
    )
    assert picked.data["winner"]["trial"] == family.family[0].data["winner"]["trial"]


@pytest.mark.parametrize("at", [2, 7, 10])
def test_a_family_that_was_stopped_goes_on(family, tmp_path, at):
    """Stopped at any evaluation (the dense one, trials, refitted winners), it ends the same."""
    calls = []

    def stops(model):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return tiny_task.evaluate(model)

    task = {**TASK, "evaluate": stops}
    with pytest.raises(KeyboardInterrupt):
        autoprune.search(**NETWORK, **task, **FAMILY, out=tmp_path / "run")
    again = autoprune.resume(tmp_path / "run", **NETWORK, **TASK)
    assert [t.candidate for t in again.trials] == [t.candidate for t in family.trials]
    assert [r.candidate for r in again.family] == [r.candidate for r in family.family]


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"objectives": ["accuracy", "latency"], "device": None}, ConfigError, "needs a device"),
        ({"objectives": ["accuracy", "recall", "macs"]}, ConfigError, "recall is neither"),
        ({"objectives": ["accuracy", "energy"], "device": FakeProfiler()}, BudgetError, "energy"),
        ({"objectives": ["accuracy", "macs"], "searcher": "amc"}, ConfigError, "one objective"),
        ({"budget": {"macs": ["0.9x", "0.0001x"]}}, autoprune.AutopruneError, "no candidate"),
        ({"budget": {"macs": ["0.9x", "0.5x", "0.4x"]}, "trials": 2}, ConfigError, "at least one"),
        ({}, ConfigError, "budget"),
    ],
)
def test_what_can_not_be_searched_for_is_told_at_the_start(settings, error, said):
    calls = []

    def evaluate(model):
        calls.append(1)
        return {"accuracy": 0.5}

    given = {
        "device": None,
        "trials": 6,
        "profile": {"candidates": 8, "timeout_s": 3600},
        **settings,
    }
    with pytest.raises(error, match=said):
        autoprune.search(**NETWORK, **{**TASK, "evaluate": evaluate}, **given)
    assert len(calls) <= 1
