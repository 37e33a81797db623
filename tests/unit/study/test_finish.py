"""From the winner to what is shipped."""

import pytest
import torch
from small_finisher import finisher
from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.device import Measurement
from autoprune.core.trial import Trial
from autoprune.graph import trace


class CountingDevice:
    """Measures half the dense network's latency, and counts how often it was asked."""

    def __init__(self):
        self.dense, self.measured = b"dense", 0

    def export(self, model):
        return b"pruned"

    def model(self, model, onnx, dense, effort):
        self.measured += 1
        return (
            Measurement("dense", latency_ms=2.0, latency_interval_ms=(2.0, 2.0), ratio=1.0),
            Measurement("pruned", 1.0, (1.0, 1.0), 0.5, (0.49, 0.51)),
        )


def recovered(accuracies, device):
    """A network whose accuracy is the next of these each time that it is evaluated."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    network = trace(model.eval(), (torch.zeros(1, 3, 8, 8),))
    told = iter(accuracies)

    def evaluate(model):
        return {"accuracy": next(told)}

    train = [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]
    limits = Budget.parse({"latency_ms": 1.5})
    ending = finisher(network, evaluate, train, epochs=2, device=device, limits=limits)
    trial = Trial(0, network.dense, None, metrics={"accuracy": accuracies[0]})
    built = ending.measure(ending.build(trial))
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    after = ending.recover(built)
    same = all(torch.equal(before[n], v) for n, v in after.model.state_dict().items())
    return after, same


@pytest.mark.parametrize(
    ("accuracies", "times"), [((0.5, 0.4, 0.3), 1), ((0.5, 0.4, 0.6), 2), ((0.5, 0.6, 0.4), 2)]
)
def test_a_network_is_measured_again_only_where_recovery_changed_it(accuracies, times):
    device = CountingDevice()
    after, same = recovered(accuracies, device)
    assert device.measured == times
    assert same == (times == 1)
    assert after.recovered
    assert after.metrics == {"accuracy": max(accuracies)}
    assert (after.onnx, after.verification.measurement.ratio) == (b"pruned", 0.5)
