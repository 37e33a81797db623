"""Transposed convolutions, and moments batch by batch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.network import Network, Selection
from autoprune.pruning._ridge import Moments
from autoprune.pruning._rows import Window, as_matrix, at, draw, patches
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.surgery import apply


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def without(network: Network, name: str, units: list[int]) -> Selection:
    """All of every group, but for these units of one."""
    selection = {g.name: np.ones(g.units, dtype=bool) for g in network.groups}
    selection[name][units] = False
    return selection


def error(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - dense(x)).square().mean())


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_upsample_as_the_dense_network_does(groups: int) -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Conv2d(3, 8, 3, padding=1)
            self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=groups)
            self.more = nn.ConvTranspose2d(6, 4, 3, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.more(torch.relu(self.up(torch.relu(self.make(x)))))

    model = Up().double().eval()
    with torch.no_grad():  # one channel of each group of four is another one's double
        for tensor in (model.make.weight, model.make.bias):
            tensor[[3, 7]] = 2 * tensor[[2, 6]]
    x = torch.randn(32, 3, 6, 6, dtype=torch.float64)
    network = trace(model, (x[:2],))
    units = [3, 7] if next(g.units for g in network.groups if g.name == "make") == 8 else [3]
    selection = without(network, "make", units)
    pruned = apply(network, selection)
    before = error(pruned, model, x)
    names = Reconstructor(network, [x[:16], x[16:]], positions=100, ridge=1e-10).apply(
        pruned, selection
    )
    assert names == ("up.weight",)
    assert pruned.up.in_channels == 6  # type: ignore[union-attr]
    assert error(pruned, model, x) < 1e-9 * before


def test_depthwise_transposed_convolutions_lose_no_inputs() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 8, 2, 2, groups=8),
        nn.Conv2d(8, 4, 1),
    ).eval()
    x = torch.randn(8, 3, 6, 6)
    network = trace(model, (x[:2],))
    selection = without(network, "0", [0, 5])
    pruned = apply(network, selection)
    assert Reconstructor(network, [x]).apply(pruned, selection) == ("2.weight",)
    assert ReconstructionImportance([x]).scores(network)["0"].shape == (8,)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(1, 2),
    st.sampled_from([1, 2]),
)
@settings(max_examples=30, deadline=None)
def test_patches_times_weights_are_a_transposed_convolution(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.ConvTranspose2d(
        4, 6, kernel, stride, padding, groups=groups, dilation=dilation, bias=False
    ).double()
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64, generator=generator)
    y = layer(x)
    window = Window(
        kernel, (stride,) * 2, (padding,) * 2, (padding,) * 2, (dilation,) * 2, transposed=True
    )
    places = draw(y.shape, 1, y.numel(), generator)
    weight = layer.weight.view(groups, -1, *layer.weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    rows = patches(x, window, places, groups) @ as_matrix(weight, groups)
    torch.testing.assert_close(rows.transpose(0, 1).flatten(1), at(y, 1, places))


@pytest.mark.parametrize("center", [True, False])
def test_moments_merge_any_split(center: bool) -> None:
    x = torch.randn(2, 50, 3, dtype=torch.float64) + 5
    y = torch.randn(2, 50, 4, dtype=torch.float64) - 3
    whole, parts = Moments(center), Moments(center)
    whole.add(x.clone(), y.clone())
    for cut in (slice(0, 1), slice(1, 20), slice(20, 20), slice(20, 50)):
        parts.add(x[:, cut].clone(), y[:, cut].clone())
    assert parts.rows == whole.rows == 50
    for name in ("xx", "xy", "mean_x", "mean_y"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    if center:
        torch.testing.assert_close(whole.xx[1], torch.cov(x[1].T, correction=0))
