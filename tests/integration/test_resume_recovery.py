"""A search that is killed while its winner is fine-tuned goes on with the next epoch."""

import pytest
import tiny_task
import torch

import autoprune


class Batches:
    """Training batches that can be cut off, as Ctrl-C would."""

    def __init__(self, stop_after=None):
        self.stop_after, self.epochs = stop_after, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)
        if self.stop_after is not None and epoch > self.stop_after:
            raise KeyboardInterrupt

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(tiny_task.train())


def search(train, **options):
    return autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        evaluate=tiny_task.evaluate,
        calibration=tiny_task.calibration(),
        train=train,
        budget={"macs": "0.4x"},
        device=None,
        searcher="uniform",
        trials=2,
        recover={"epochs": 4, "lr": 0.02},
        **options,
    )


def test_killed_while_the_winner_is_fine_tuned(tmp_path):
    whole = search(Batches())
    with pytest.raises(KeyboardInterrupt):
        search(Batches(stop_after=2), out=tmp_path / "run")
    assert list((tmp_path / "run" / "recovery").iterdir())
    rest = Batches()
    result = autoprune.resume(
        tmp_path / "run",
        model=tiny_task.build(),
        example_inputs=tiny_task.inputs(),
        evaluate=tiny_task.evaluate,
        calibration=tiny_task.calibration(),
        train=rest,
    )
    assert rest.epochs == [3, 4]
    assert result.metrics == whole.metrics
    weights = whole.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in result.model.state_dict().items())
    assert not (tmp_path / "run" / "recovery").exists()
