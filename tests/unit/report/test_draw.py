"""Which picture a finished run gets, and where."""

from types import SimpleNamespace

import pytest

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.report import draw, run_folder

COST = Cost({"macs": Estimate(5e7)})
DATA = {
    "held": True,
    "budget": {"asked": {"macs": "0.5x"}, "limits": {"macs": 6e7}},
    "objective": "accuracy",
    "dense": {"metrics": {"accuracy": 0.9}, "cost": COST.to_dict()},
    "winner": {"metrics": {"accuracy": 0.8}, "cost": COST.to_dict()},
}


def result(folder=None, family=(), metrics=(("accuracy", 0.8),)):
    error = None if metrics else "failed"
    trial = Trial(0, Candidate.of({"a": 1}), COST, None, dict(metrics), error)
    return SimpleNamespace(folder=folder, family=family, front=None, trials=[trial], data=DATA)


def test_a_run_is_drawn_in_its_folder_or_where_it_is_wanted(tmp_path):
    assert draw(result(tmp_path)) == tmp_path / "trials.png"
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert draw(result(), tmp_path / "own.png") == tmp_path / "own.png"
    assert (tmp_path / "own.png").exists()


def test_the_folder_of_a_family_is_that_above(tmp_path):
    assert run_folder(result(tmp_path / "macs-0.5x", family=(1, 2))) == tmp_path
    assert run_folder(result(tmp_path)) == tmp_path
    assert run_folder(result()) is None


@pytest.mark.parametrize(
    ("given", "path", "said"),
    [
        (result(), None, "needs a path"),
        (result(family=(1, 2)), "picture.png", r"give search\(out=...\) one"),
        (result(metrics=()), "picture.png", "none finished"),
    ],
)
def test_what_can_not_be_drawn_is_told(given, path, said):
    with pytest.raises(ConfigError, match=said):
        draw(given, path)
