"""Searches whose evaluations race against the best."""

import numpy as np
import pytest
import tiny_task
import torch
import yaml
from torch import nn

import autoprune
from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, EvaluationError, RunError
from autoprune.evaluate import Accuracy
from autoprune.study.racing import Race


class Fixed:
    """Gives hits that are written on the network."""

    samples = 2000

    def __init__(self):
        self.seen = 0

    def hits(self, model, indices):
        self.seen += len(indices)
        return model.hits[indices]


def network(share, seed=0):
    model = nn.Module()
    order = np.random.default_rng(seed).permutation(2000)
    model.hits = order < share * 2000
    return model


def candidate(number):
    return Candidate.of({"a": number})


def race(evaluator, file=None, **options):
    settings = {"places": 2, "confidence": 0.99, "seed": 0, "file": file, **options}
    return Race(evaluator, **settings)


def test_the_best_are_evaluated_in_full_and_the_hopeless_are_not():
    evaluator = Fixed()
    run = race(evaluator)
    assert run(network(0.9, 1), candidate(1)) == (0.9, None)
    assert run(network(0.5, 2), candidate(2)) == (0.5, None)  # no bar with one in two places
    assert run(network(0.88, 3), candidate(3)) == (0.88, None)
    evaluator.seen = 0
    score, samples = run(network(0.6, 4), candidate(4))
    assert samples == evaluator.seen == 125
    assert score == pytest.approx(0.6, abs=0.12)
    assert score < 0.88
    assert run(network(0.89, 5), candidate(5)) == (0.89, None)
    assert run(network(0.95, 6), candidate(6)) == (0.95, None)


def test_what_the_best_are_right_on_outlives_a_kill(tmp_path):
    file = tmp_path / "racing.json"
    first = race(Fixed(), file)
    for number, share in ((2, 0.9), (1, 0.85), (3, 0.7)):
        first(network(share, number), candidate(number))
    evaluator = Fixed()
    again = race(evaluator, file)
    assert again(network(0.6, 9), candidate(9)) == first(network(0.6, 9), candidate(9))
    assert again(network(0.6, 9), candidate(9))[1] is not None
    # Cut off between here and the trial's storing: it is evaluated once more, in full.
    assert again(network(0.85, 1), candidate(1)) == (0.85, None)
    smaller = Fixed()
    smaller.samples = 100
    with pytest.raises(RunError, match="the evaluator has 100"):
        race(smaller, file)


def test_what_is_no_hits_fails_the_trial():
    class Wrong(Fixed):
        def hits(self, model, indices):
            return np.zeros(len(indices))

    class Raising(Fixed):
        def hits(self, model, indices):
            raise ValueError("no GPU")

    for evaluator, match in ((Wrong(), "booleans"), (Raising(), "no GPU")):
        with pytest.raises(EvaluationError, match=match):
            race(evaluator)(network(0.5), candidate(1))


def evaluator():
    x, labels, centre = tiny_task._data()

    class Centred(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) - centre

    class Agreement(Accuracy):
        def _right(self, model, inputs, labels):
            return super()._right(Centred(model), inputs, labels)

    return Agreement(x, labels, batch=128)


def search(**options):
    settings = {
        "evaluate": evaluator(),
        "calibration": tiny_task.calibration(),
        "budget": {"macs": "0.3x"},
        "device": None,
        "searcher": "random",
        "trials": 14,
        "racing": {"places": 1, "confidence": 0.8},
        **options,
    }
    return autoprune.search(tiny_task.build(), tiny_task.inputs(), **settings)


def test_a_search_stops_the_hopeless_and_finds_the_same_winner(tmp_path):
    full = search(racing=None)
    raced = search(out=tmp_path / "run")
    stopped = [trial for trial in raced.trials if trial.samples is not None]
    assert stopped
    assert all(trial.ok and not trial.whole and trial.samples < 512 for trial in stopped)
    assert [t.candidate for t in raced.trials] == [t.candidate for t in full.trials]
    assert raced.candidate == full.candidate
    assert raced.metrics == full.metrics
    scores = [t.score() for t in full.trials]
    for trial in stopped:
        assert scores[trial.number] < max(scores)
    study = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["run"]["study"]
    from autoprune.study.store import Store

    kept = {g: of for g, (_, of) in raced.kept.items()}
    stored = [s.trial for s in Store(tmp_path / "run" / "journal.log", study, kept).trials()]
    assert [t.samples for t in stored] == [t.samples for t in raced.trials]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"evaluate": tiny_task.evaluate}, "tells of single samples"),
        ({"workers": 1}, "can't be combined with workers"),
        ({"racing": {"confidence": 0.4}}, "confidence"),
        ({"racing": {"places": 0}}, "places"),
    ],
)
def test_refused_before_anything_is_evaluated(options, match):
    with pytest.raises(ConfigError, match=match):
        search(**options)


def test_a_class_named_in_a_config_is_made_with_its_options():
    from pathlib import Path

    from autoprune.study.references import function_reference

    made = function_reference(
        "autoprune.evaluate.accuracy:Accuracy",
        {"inputs": torch.zeros(2, 3), "labels": torch.zeros(2, dtype=torch.long)},
        Path(),
        "evaluate",
    )
    assert made.samples == 2
    with pytest.raises(ConfigError, match="evaluate"):
        function_reference("autoprune.evaluate.accuracy:Accuracy", {}, Path(), "evaluate")
