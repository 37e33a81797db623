"""Searches whose last trials are local search: alone, killed and resumed, of several budgets."""

import pytest
import tiny_task
import torch
from typer.testing import CliRunner

import autoprune
from autoprune.cli.commands import app
from autoprune.core.errors import ConfigError
from autoprune.study.config import validate
from autoprune.study.progress import Progress


class Killed(BaseException):
    """Stands for SIGKILL."""


class Evaluate:
    """The tiny task's accuracy; killed at a call."""

    def __init__(self, killed_at=None):
        self.calls, self.killed_at = 0, killed_at

    def __call__(self, model):
        if self.calls == self.killed_at:
            raise Killed
        self.calls += 1
        return tiny_task.evaluate(model)


class Said(Progress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def search(evaluate=None, **options):
    torch.manual_seed(0)
    settings = {
        "evaluate": evaluate or Evaluate(),
        "budget": {"macs": "0.5x"},
        "device": None,
        "searcher": "random",
        "trials": 12,
        "local_search": 0.5,
        **options,
    }
    return autoprune.search(tiny_task.build(), tiny_task.inputs(), **settings)


def candidates(result):
    return [trial.candidate for trial in result.trials]


def test_the_searcher_first_then_local_search():
    said = Said()
    found = search(progress=said)
    alone = search(local_search=0, trials=6)
    assert candidates(found)[:6] == candidates(alone)
    assert len(set(candidates(found))) == 12
    assert any("local search" in line and "last 6 trials of 12" in line for line in said.lines)
    assert found.metrics["accuracy"] >= alone.metrics["accuracy"]


@pytest.mark.parametrize("searcher", ["random", "greedy"])
@pytest.mark.parametrize("killed_at", [4, 10])
def test_resumed_it_goes_the_same_way(tmp_path, searcher, killed_at):
    whole = search(searcher=searcher)
    with pytest.raises(Killed):
        search(Evaluate(killed_at), searcher=searcher, out=tmp_path / "run")
    again = autoprune.resume(
        tmp_path / "run",
        model=tiny_task.build(),
        example_inputs=tiny_task.inputs(),
        evaluate=Evaluate(),
    )
    assert candidates(again) == candidates(whole)


def test_every_budget_of_several_has_its_own_local_search(tmp_path):
    said = Said()
    found = search(budget={"macs": ["0.7x", "0.5x"]}, trials=16, progress=said)
    assert len(found.trials) == 16
    assert sum("last 4 trials of 8" in line for line in said.lines) == 1
    tight = search(trials=8)
    assert len(set(candidates(found))) == 16
    assert all(trial.predicted.macs <= 0.5 * found.dense_cost.macs for trial in found.trials[8:])
    assert tight.held


def test_from_the_command_line():
    said = CliRunner().invoke(app, ["search", "--budget", "macs=0.5x", "--local-search", "1.5"])
    assert isinstance(said.exception, ConfigError)
    assert "local_search: input should be less than 1, got 1.5" in str(said.exception)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_search": 1.0}, "local_search"),
        ({"local_search": -0.1}, "local_search"),
        ({"local_search": 0.2, "objectives": ["accuracy", "macs"]}, "no single one"),
        ({"local_search": 0.2, "trials": 1}, "two trials or more of every budget, got 1"),
        (
            {"local_search": 0.2, "trials": 3, "budget": {"macs": ["0.7x", "0.5x"]}},
            "two trials or more of every budget, got 3 trials for 2",
        ),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate({"budget": {"macs": "0.5x"}, **settings}, "test")


def test_a_warm_up_longer_than_the_searchers_share_is_refused():
    evaluate = Evaluate()
    with pytest.raises(ConfigError, match=r"startup .* below the 6 trials"):
        search(evaluate, searcher="tpe", searcher_options={"startup": 8})
    assert evaluate.calls == 0
