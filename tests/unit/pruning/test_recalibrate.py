from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.pruning.recalibrate import Running, recalibrate


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
    ).eval()


def test_statistics_are_those_of_all_samples_together() -> None:
    model = network()
    x = torch.randn(30, 3, 8, 8) * 3 + 1
    names = recalibrate(model, [x[:4], x[4:11], x[11:]])
    first = model[0](x)
    assert names == ("1", "5")
    torch.testing.assert_close(model[1].running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, first.var((0, 2, 3)))


def test_one_batch_gives_what_training_mode_computes() -> None:
    model = network()
    x = torch.randn(16, 3, 8, 8)
    recalibrate(model, [x])
    with torch.no_grad():
        given_ = model(x)
        for norm in (model[1], model[5]):
            norm.train()
        wanted = model(x)
    torch.testing.assert_close(given_, wanted, rtol=1e-2, atol=1e-2)


def test_modes_momentum_and_everything_else_stay() -> None:
    model = network().train()
    model[4].eval()
    model[1].momentum = 0.3
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(model, [torch.randn(8, 3, 8, 8)], layers=["5"])
    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == 0.3
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"5.running_mean", "5.running_var"}
    assert not model[1]._forward_pre_hooks


def test_mode_is_restored_where_the_forward_raises() -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        recalibrate(model, [torch.randn(8, 5, 8, 8)])
    assert not any(m.training for m in model.modules())
    assert model[1].momentum == 0.1
    assert not model[1]._forward_pre_hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.unused = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        result: Tensor = self.norm(x + shift)
        return result


def test_keyword_and_positional_inputs_and_layers_never_called() -> None:
    model = Keyword()
    x, shift = torch.randn(9, 3), torch.tensor(2.0)
    assert recalibrate(model, [{"x": x[:5], "shift": shift}, (x[5:], shift)]) == ("norm",)
    torch.testing.assert_close(model.norm.running_mean, (x + 2).mean(0))
    torch.testing.assert_close(model.unused.running_mean, torch.zeros(3))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 10))
def test_running_merges_any_split(sizes: list[int], seed: int) -> None:
    x = torch.randn(sum(sizes), 3, 2, generator=torch.Generator().manual_seed(seed)) * 5 + 40
    running = Running()
    for part in x.split(sizes):
        running.add(part)
    mean, variance = torch.zeros(3), torch.zeros(3)
    running.store(mean, variance)
    torch.testing.assert_close(mean, x.mean((0, 2)))
    torch.testing.assert_close(variance, x.var((0, 2)), rtol=1e-4, atol=1e-4)


class Own(nn.Module):
    """A BatchNorm of no known class, with an activation, frozen: buffers alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (x - self.running_mean.view(shape)) * (self.running_var.view(shape) + 1e-5).rsqrt()
        return torch.relu(y)


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, Own])
def test_norms_of_any_make_are_as_torchs_own(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), kind(4), nn.ReLU(), nn.Conv2d(4, 5, 1), kind(5), nn.ReLU()]
    model = nn.Sequential(*layers)
    usual = nn.Sequential(
        *(nn.BatchNorm2d(4 if i == 1 else 5) if i in (1, 4) else m for i, m in enumerate(layers))
    )
    batches = [torch.randn(8, 3, 6, 6) * 2 + 1, torch.randn(5, 3, 6, 6)]
    assert recalibrate(model, batches) == recalibrate(usual, batches) == ("1", "4")
    for index in (1, 4):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(model[index], name), getattr(usual[index], name))
    assert not torch.equal(usual[4].running_mean, torch.zeros(5))  # type: ignore[arg-type]


def test_instance_norms_are_left_alone_and_statistics_stay_where_it_fails() -> None:
    model = nn.Sequential(
        nn.InstanceNorm2d(3, track_running_stats=True), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    )
    assert recalibrate(model, [torch.randn(4, 3, 5, 5)]) == ("2",)
    before = model[2].running_mean.clone()  # type: ignore[operator, union-attr]
    with pytest.raises(RuntimeError):
        recalibrate(model[1:], [torch.randn(4, 3, 5, 5), torch.randn(4, 2, 5, 5)])
    assert torch.equal(model[2].running_mean, before)  # type: ignore[arg-type]


def test_channels_elsewhere_are_refused() -> None:
    with pytest.raises(EvaluationError, match="in dimension 1"):
        recalibrate(Own(7), [torch.randn(4, 3, 7)])


def test_bad_input() -> None:
    model = network()
    with pytest.raises(ConfigError, match="got none"):
        recalibrate(model, [])
    with pytest.raises(ConfigError, match="0, 9"):
        recalibrate(model, [torch.randn(2, 3, 8, 8)], layers=["0", "9", "1"])
    with pytest.raises(ConfigError, match="a calibration batch must be"):
        recalibrate(model, ["text"])
    with pytest.raises(EvaluationError, match="finite"):
        recalibrate(model, [torch.full((2, 3, 8, 8), torch.nan)])
    with pytest.raises(EvaluationError, match="at least two values"):
        recalibrate(nn.BatchNorm1d(3), [torch.randn(1, 3)])
