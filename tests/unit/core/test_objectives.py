"""Objectives are read as they are written; contradictions are refused."""

import numpy as np
import pytest

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import ConfigError
from autoprune.core.objectives import Objective, check_direction, losses, parse_objectives
from autoprune.core.trial import Trial


def test_names_are_metrics_and_costs():
    found = parse_objectives(["accuracy", "latency", "-calibration_error", "recall", "flops"])
    assert found == (
        Objective("accuracy"),
        Objective("latency_ms", True, False),
        Objective("calibration_error", False, False),
        Objective("recall"),
        Objective("macs", True, False),
    )
    assert [str(o) for o in found][2] == "-calibration_error"


def test_a_cost_of_the_users_own_is_a_cost():
    assert parse_objectives(["accuracy", "price"], costs=["price"])[1].cost
    assert not parse_objectives(["accuracy", "price"])[1].cost


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["accuracy"], "two or more"),
        ([], "two or more"),
        (["latency", "params"], "only costs"),
        (["latency", "accuracy"], "first of the objectives"),
        (["accuracy", "latency", "latency_ms"], "once"),
        (["accuracy", "-accuracy"], "once"),
        (["accuracy", "-latency"], "without a sign"),
        (["accuracy", "latncy_ms"], "did you mean 'latency_ms'"),
        (["accuracy", " "], "names"),
    ],
)
def test_what_contradicts_itself_is_refused(names, said):
    with pytest.raises(ConfigError, match=said):
        parse_objectives(names)


def test_the_first_may_be_minimised():
    first, second = parse_objectives(["-loss", "latency"])
    assert (first.name, first.maximise, second.cost) == ("loss", False, True)


@pytest.mark.parametrize("name", ["loss", "val_loss", "RMSE", "word-error"])
def test_a_loss_is_not_maximised(name):
    with pytest.raises(ConfigError, match=f"give -{name}"):
        check_direction(name, 0.4)
    check_direction(f"-{name}", -0.4)
    check_direction(name, -0.4)  # negated by evaluate
    check_direction("lossless", 0.4)


def test_losses_of_trials():
    predicted = Cost({"latency_ms": Estimate(2.0, 0.1, "table"), "macs": Estimate(5.0)})
    measured = Cost({"latency_ms": Estimate(3.0, 0.0, "measured")})
    objectives = parse_objectives(["accuracy", "latency", "macs", "-loss"])
    metrics = {"accuracy": 0.9, "loss": 0.4}
    one = Candidate((("g", 1),))
    trials = [
        Trial(0, one, predicted, metrics=metrics),
        Trial(1, one, predicted, measured=measured, metrics=metrics),
        Trial(2, one, predicted, error="failed"),
        Trial(3, one, predicted, metrics={"accuracy": 0.9}),
    ]
    found = losses(objectives, trials)
    assert found[0].tolist() == [-0.9, 2.0, 5.0, 0.4]
    assert found[1, 1] == 3.0
    assert np.isnan(found[2]).all()
    assert np.isnan(found[3]).tolist() == [False, False, False, True]
