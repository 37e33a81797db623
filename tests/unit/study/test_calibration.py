import dataclasses

import pytest
import torch
from torch import nn

from autoprune.core.errors import ConfigError
from autoprune.pruning.importance import Taylor
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.study.calibration import SEARCH_SAMPLES, for_search, importance_name, importance_of
from autoprune.study.conduct import check_batches
from autoprune.study.config import SearchConfig
from autoprune.study.task import Task


def task(importance="auto", calibration=None, train=None):
    config = SearchConfig(budget={"macs": "0.5x"}, importance=importance)
    return Task(config, nn.Linear(2, 2), (torch.zeros(1, 2),), len, calibration, train)


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [((), 0), ((1000, 1000), 1), ((200, 200, 200), 2), ((300, 50, 50, 1), 3), ((100, 100), 2)],
)
def test_a_search_takes_the_first_batches(sizes, taken):
    batches = [torch.zeros(size, 2) for size in sizes]
    chosen = for_search(batches)
    assert len(chosen) == taken
    assert sum(map(len, chosen)) >= min(SEARCH_SAMPLES, sum(sizes))


def test_samples_are_counted_in_tuples_and_mappings():
    pair = (torch.zeros(SEARCH_SAMPLES, 2), torch.zeros(1))
    named = {"x": torch.zeros(SEARCH_SAMPLES, 2)}
    assert len(for_search([pair, pair])) == len(for_search([named, named])) == 1


def test_auto_goes_by_what_is_there():
    batches = [torch.zeros(4, 2)]
    assert importance_name(task()) == "l1"
    assert importance_name(task(calibration=batches)) == "reconstruction"
    assert importance_of(task()) == "l1"
    assert isinstance(importance_of(task(calibration=batches)), ReconstructionImportance)
    assert isinstance(importance_of(task("taylor", train=[(batches[0], batches[0])])), Taylor)
    own = ReconstructionImportance(batches)
    assert importance_of(dataclasses.replace(task("l2"), importance=own)) is own


@pytest.mark.parametrize(("name", "what"), [("reconstruction", "calibration"), ("taylor", "train")])
def test_what_needs_batches_says_which(name, what):
    with pytest.raises(ConfigError, match=f"importance {name} needs .* `{what}`"):
        check_batches(task(name))
