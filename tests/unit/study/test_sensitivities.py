"""Sensitivities of a run: what each is computed from, stored, and what it costs."""

import numpy as np
import pytest
import tiny_task
import yaml

import autoprune
from autoprune.core.errors import ConfigError
from autoprune.study.progress import Progress
from autoprune.study.sensitivity import interpolated
from autoprune.study.store import Store


class Told(Progress):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


class Counted:
    """The evaluation, which can be cut off."""

    def __init__(self, most=10**6):
        self.calls, self.most = 0, most

    def __call__(self, model):
        if self.calls >= self.most:
            raise KeyboardInterrupt
        self.calls += 1
        return tiny_task.evaluate(model)


def search(evaluate, kind, **options):
    settings = {"calibration": tiny_task.calibration(), "trials": 3, **options}
    return autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        evaluate=evaluate,
        budget={"macs": "0.5x"},
        device=None,
        searcher="exact",
        searcher_options={"sensitivity": kind},
        **settings,
    )


def events(run):
    study = yaml.safe_load((run / "config.yaml").read_text())["run"]["study"]
    store = Store(run / "journal.log", study, {})
    return [event for event in store.events() if event.kind == "sensitivity"]


@pytest.mark.parametrize("kind", ["divergence", "reconstruction", "fisher"])
def test_computed_once_without_evaluations(tmp_path, kind):
    evaluate, told = Counted(), Told()
    result = search(evaluate, kind, out=tmp_path / "run", progress=told)
    assert evaluate.calls <= 1 + 3 + 3  # dense, trials, winners refitted on all batches
    (stored,) = events(tmp_path / "run")
    assert stored.data["kind"] == kind
    assert set(stored.data["losses"]) == set(result.kept)
    for losses in stored.data["losses"].values():
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] == 0 < losses[0]
    assert any(f"sensitivity {kind}: 0 evaluations" in text for text in told.messages)


def test_measured_by_evaluations_that_are_counted_and_never_done_twice(tmp_path):
    whole, told = Counted(), Told()
    expected = search(whole, "measured", progress=told)
    groups = len(expected.kept)
    assert any(f"measured: {2 * groups} evaluations" in text for text in told.messages)
    with pytest.raises(KeyboardInterrupt):
        search(Counted(most=4), "measured", out=tmp_path / "run")
    assert len(events(tmp_path / "run")) == 3  # the dense network came first
    rest = Counted()
    result = autoprune.resume(
        tmp_path / "run",
        model=tiny_task.build(),
        example_inputs=tiny_task.inputs(),
        evaluate=rest,
        calibration=tiny_task.calibration(),
    )
    assert rest.calls == whole.calls - 4
    assert [t.candidate for t in result.trials] == [t.candidate for t in expected.trials]


def test_it_needs_calibration_batches():
    with pytest.raises(ConfigError, match="'fisher' needs batches of inputs"):
        search(Counted(), "fisher", calibration=None)
    search(Counted(), None, calibration=None)  # learns from trials instead


def test_losses_between_the_widths_that_were_measured():
    losses = interpolated((2, 4, 6, 8, 12, 16), [4, 8], [0.3, 0.1])
    np.testing.assert_allclose(losses, [0.4, 0.3, 0.2, 0.1, 0.05, 0.0])
    # A narrower one that measured better by chance counts as much as the wider one.
    np.testing.assert_allclose(interpolated((2, 4, 8, 16), [4, 8], [0.0, 0.1])[:3], [0.1, 0.1, 0.1])
