"""Recovery that was cut off goes on as if nothing had happened."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, RunError
from autoprune.pruning.recover import Epoch, Recovery, recover

SETTINGS: dict[str, Any] = {"epochs": 4, "lr": 0.1, "seed": 3}


class Data:
    """Batches in an order of their own each epoch, as a loader with a sampler."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(128, 2, generator=generator)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(128, generator=torch.Generator().manual_seed(self.epoch))
        return iter([(self.x[i], self.y[i]) for i in order.split(16)])

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            return {"accuracy": float((model(self.x).argmax(1) == self.y).float().mean())}


def net(dropout: float = 0.3, width: int = 24) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 2),
        )


def cut_off(folder: Path, after: int, optimizer: str) -> None:
    """Recover, and be killed once epoch `after` was told."""

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise KeyboardInterrupt

    data = Data()
    options = {**SETTINGS, "optimizer": optimizer}
    with pytest.raises(KeyboardInterrupt):
        recover(
            net(), net(0.0), data, data.evaluate, checkpoint=folder, on_progress=kill, **options
        )


def whole(optimizer: str, **options: Any) -> tuple[Recovery, dict[str, Tensor]]:
    data, model = Data(), net()
    options = {**SETTINGS, "optimizer": optimizer, **options}
    result = recover(model, net(0.0), data, data.evaluate, **options)
    return result, model.state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_going_on_gives_what_an_unbroken_recovery_gives(tmp_path: Path, optimizer: str) -> None:
    wanted, weights = whole(optimizer)
    cut_off(tmp_path, 2, optimizer)
    told: list[Epoch] = []
    torch.manual_seed(99)
    result, again = whole(optimizer, checkpoint=tmp_path, on_progress=told.append)
    assert [e.epoch for e in told] == [0, 1, 2, 3, 4]
    assert [e.loss for e in result.history[1:]] == [e.loss for e in wanted.history[1:]]
    assert result.best.epoch == wanted.best.epoch
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "epoch-00004.safetensors",
        "recovery.json",
    ]


def test_a_finished_recovery_is_not_done_again(tmp_path: Path) -> None:
    wanted, weights = whole("sgd", checkpoint=tmp_path)

    class Untouchable(Data):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            raise AssertionError("trained again")

    data, model = Untouchable(), net()
    result = recover(model, net(0.0), data, data.evaluate, checkpoint=tmp_path, **SETTINGS)
    assert result.reason == wanted.reason
    assert result.best == wanted.best
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_a_kill_while_writing_leaves_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprune.pruning import _checkpoint

    real = _checkpoint.write_atomically

    def torn(path: Path, data: bytes | str) -> None:
        if path.name == "recovery.json" and '"epoch-00003' in str(data):
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(_checkpoint, "write_atomically", torn)
    with pytest.raises(KeyboardInterrupt):
        whole("sgd", checkpoint=tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "recovery.json").read_text())["tensors"].startswith("epoch-00002")
    wanted, weights = whole("sgd")
    result, again = whole("sgd", checkpoint=tmp_path)
    assert result.best == wanted.best
    assert all(torch.equal(weights[k], again[k]) for k in weights)


def test_tied_and_channels_last_weights_are_kept_so(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.again = nn.Conv2d(2, 2, 3, padding=1)
            self.again.weight = self.conv.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.conv(x).relu()).mean((2, 3))

    images = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.tensor([0, 1] * 4))]
    torch.manual_seed(0)
    model = Tied().to(memory_format=torch.channels_last)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    recover(model, None, batches, epochs=2, lr=0.5, checkpoint=tmp_path)
    again = Tied().to(memory_format=torch.channels_last)
    recover(again, None, batches, epochs=2, lr=0.5, checkpoint=tmp_path)
    assert again.again.weight is again.conv.weight
    assert again.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(again.conv.weight, model.conv.weight)
    assert not torch.equal(again.conv.weight, start["conv.weight"])


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    cut_off(tmp_path, 2, "sgd")
    data = Data()
    with pytest.raises(RunError, match=r"other settings \(lr\)"):
        recover(net(), None, data, data.evaluate, checkpoint=tmp_path, **{**SETTINGS, "lr": 0.2})
    with pytest.raises(RunError, match="another network"):
        recover(net(width=16), None, data, data.evaluate, checkpoint=tmp_path, **SETTINGS)
    (tmp_path / "epoch-00002.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="delete the folder"):
        recover(net(), None, data, data.evaluate, checkpoint=tmp_path, **SETTINGS)
    (tmp_path / "recovery.json").write_text("{")
    with pytest.raises(RunError, match=r"recovery\.json can't be read"):
        recover(net(), None, data, data.evaluate, checkpoint=tmp_path, **SETTINGS)


def test_state_that_is_no_tensor_cannot_be_checkpointed(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            return

    data = Data()
    with pytest.raises(ConfigError, match="made of tensors"):
        recover(Odd(2, 2), None, data, data.evaluate, checkpoint=tmp_path, **SETTINGS)
