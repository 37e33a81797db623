"""Nothing that a search computes runs beside a measurement on the same machine."""

import threading

import pytest
import torch
from small_finisher import finisher
from torch import nn

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.trial import Trial
from autoprune.evaluate import quiet
from autoprune.evaluate.quiet import measuring
from autoprune.graph import trace
from autoprune.study.quietly import QuietBatches, measure_quietly


class Observed:
    """Notes what of the machine is held when something happens."""

    def __init__(self):
        self.seen = []

    def note(self, what):
        state = "measuring" if quiet._measures() else None
        self.seen.append((what, state or ("evaluating" if quiet._shared() is not None else None)))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    model.append(nn.Linear(8 * 16, 4))
    return trace(model.eval(), (torch.zeros(1, 3, 8, 8),))


def batches(observed, count=2):
    for _ in range(count):
        observed.note("loading")
        yield torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)


class Batches:
    def __init__(self, observed):
        self.observed = observed

    def __iter__(self):
        return batches(self.observed)

    def __len__(self):
        return 2


def finished(observed):
    """A winner that is checked, refitted and recovered."""
    traced = network()

    def evaluate(model):
        observed.note("evaluating")
        return {"accuracy": 0.5}

    def loss(output, target):
        observed.note("training")
        return nn.functional.cross_entropy(output, target)

    calibration = [torch.randn(4, 3, 8, 8)]
    ending = finisher(
        traced, evaluate, Batches(observed), epochs=1, calibration=calibration, loss=loss
    )
    trial = Trial(0, traced.dense, None, metrics={"accuracy": 0.5})
    ending.recover(ending.build(trial))


def test_checking_refitting_and_recovering_a_winner_count_as_computing():
    observed = Observed()
    finished(observed)
    assert {what for what, _ in observed.seen} == {"evaluating", "loading", "training"}
    assert {state for _, state in observed.seen} == {"evaluating"}


def test_recovery_waits_between_two_steps_for_a_measurement():
    trained, step, measured, leave = [], *(threading.Event() for _ in range(3))
    begun, done = threading.Event(), threading.Event()

    def train():
        for batch in QuietBatches([1, 2]):
            trained.append(batch)
            begun.set()
            step.wait(600)
        done.set()

    def measure():
        with measuring():
            measured.set()
            leave.wait(600)

    threading.Thread(target=train, daemon=True).start()
    assert begun.wait(300)
    threading.Thread(target=measure, daemon=True).start()
    assert not measured.wait(0.3)  # while the first batch is trained on
    step.set()
    assert measured.wait(300)
    assert not done.wait(0.3)
    assert trained == [1]
    leave.set()
    assert done.wait(300)
    assert trained == [1, 2]


def test_quiet_batches_are_the_batches():
    class Given(list):
        def set_epoch(self, number):
            self.epoch = number

    given = Given([1, 2, 3])
    quietly = QuietBatches(given)
    quietly.set_epoch(4)
    assert (len(quietly), list(quietly), given.epoch) == (3, [1, 2, 3], 4)
    with pytest.raises(TypeError):
        len(QuietBatches(x for x in given))
    with pytest.raises(AttributeError):
        quietly.sampler  # noqa: B018


@pytest.mark.parametrize(
    ("how", "state"), [({}, "measuring"), ({"remote": True}, None), ({"quiet": True}, None)]
)
def test_what_measures_here_has_the_machine_alone(how, state):
    observed = Observed()

    class Device:
        device = DeviceSpec("bench", "none", "0")

        def measure(self, artifacts, protocol):
            observed.note("measuring")
            return [Measurement(a.key, error="not today") for a in artifacts]

    device = Device()
    vars(device).update(how)
    measure_quietly(device, [Artifact("a", b"", {})], MeasuringProtocol())
    assert observed.seen == [("measuring", state)]
