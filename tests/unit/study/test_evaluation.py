import numpy as np
import pytest
import tiny_task
import torch

from autoprune.core.errors import EvaluationError
from autoprune.graph import trace
from autoprune.study.evaluation import CandidateEvaluator, as_number, evaluate_model


@pytest.fixture(scope="module")
def network():
    return trace(tiny_task.build(), tiny_task.inputs())


def half(network):
    from autoprune.core.candidate import Candidate

    return Candidate.of({group.name: group.units // 2 for group in network.groups})


@pytest.mark.parametrize(
    "given",
    [0.5, {"accuracy": 0.5}, torch.tensor(0.5), {"accuracy": np.float32(0.5)}, np.array([0.5])],
)
def test_what_counts_as_a_figure(given):
    assert evaluate_model(torch.nn.Identity(), lambda m: given, "accuracy") == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, 'must return a mapping such as {"accuracy": 0.93}, or a number; .* NoneType'),
        ("0.5", "it returned str"),
        (True, "it returned bool"),
        (float("nan"), "finite numbers"),
        ({"accuracy": float("inf")}, "finite numbers, its 'accuracy' is inf"),
        ({"accuracy": "high"}, "its 'accuracy' is 'high'"),
        ({"top1": 0.5}, "must return 'accuracy', the objective; it returned top1"),
        ({}, "it returned nothing"),
        (torch.ones(2), "it returned Tensor"),
    ],
)
def test_what_does_not(given, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_model(torch.nn.Identity(), lambda m: given, "accuracy")


@pytest.mark.parametrize("given", [0.25, {"loss": 0.25}])
def test_an_objective_that_is_minimised(given):
    found = evaluate_model(torch.nn.Identity(), lambda m: given, "-loss")
    assert found == {"loss": 0.25, "-loss": -0.25}
    with pytest.raises(EvaluationError, match="`objective`: loss, or -loss to minimise"):
        evaluate_model(torch.nn.Identity(), lambda m: {"loss": 0.25}, "accuracy")


def test_what_the_users_function_raises_is_told_with_its_line():
    with pytest.raises(EvaluationError, match=r"KeyError: 'top1' \(fails, tiny_task.py:\d+\)"):
        evaluate_model(torch.nn.Identity(), tiny_task.fails, "accuracy")


def test_the_model_is_in_eval_mode_and_without_gradients():
    def evaluate(model):
        return {"accuracy": float(model.training) + float(torch.is_grad_enabled())}

    model = torch.nn.Sequential(torch.nn.Dropout().train(), torch.nn.Dropout().eval())
    assert evaluate_model(model, evaluate, "accuracy") == {"accuracy": 0.0}
    assert [m.training for m in model.modules()] == [True, True, False]


def test_booleans_are_no_numbers():
    assert as_number(True) is None
    assert as_number(torch.tensor(True)) is None
    assert as_number(np.True_) is None


def test_reconstruction_helps(network):
    candidate = half(network)
    accuracies = []
    for reconstruct in (False, True):
        evaluator = CandidateEvaluator(
            network,
            tiny_task.evaluate,
            calibration=tiny_task.calibration(),
            reconstruct=reconstruct,
        )
        outcome = evaluator(candidate)
        assert outcome.ok
        assert outcome.seconds >= sum(outcome.phases.values()) * 0.99
        accuracies.append(outcome.metrics["accuracy"])
    assert accuracies[1] > accuracies[0]
    assert {"select", "surgery", "reconstruct", "evaluate"} == set(outcome.phases)


def test_the_same_candidate_gives_the_same_figure(network):
    evaluator = CandidateEvaluator(network, tiny_task.evaluate, calibration=tiny_task.calibration())
    first, second = evaluator(half(network)), evaluator(half(network))
    assert first.metrics == second.metrics


def test_a_failure_is_an_outcome(network):
    outcome = CandidateEvaluator(network, tiny_task.fails)(half(network))
    assert not outcome.ok
    assert "KeyError" in outcome.error
    assert outcome.metrics == {}


def test_a_network_that_can_not_be_built_is_an_outcome_too(network, monkeypatch):
    evaluator = CandidateEvaluator(network, tiny_task.evaluate)

    def broken(*_args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(evaluator, "build", broken)
    outcome = evaluator(half(network))
    assert "could not be built: RuntimeError: mat1 and mat2" in outcome.error


def test_ctrl_c_is_no_failure(network):
    def stop(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CandidateEvaluator(network, stop)(half(network))


def test_the_users_model_is_not_touched(network):
    before = {k: v.clone() for k, v in network.model.state_dict().items()}
    evaluator = CandidateEvaluator(network, tiny_task.evaluate, calibration=tiny_task.calibration())
    evaluator(half(network))
    after = network.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
