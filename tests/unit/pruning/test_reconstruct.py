from collections.abc import Iterator

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from traced import traced

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, SurgeryError
from autoprune.graph import trace
from autoprune.graph.network import Network, Selection
from autoprune.pruning._consumers import consumers
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def keeping(network: Network, **kept: list[int]) -> Selection:
    """Keep these units of the groups named (dots as "__"), and all of the others."""
    result = {}
    for group in network.groups:
        mask = np.ones(group.units, dtype=bool)
        units = kept.get(group.name.replace(".", "__"))
        if units is not None:
            mask[:] = False
            mask[units] = True
        result[group.name] = mask
    return result


def halves(network: Network) -> Selection:
    kept = {g.name: max(1, g.units // 2) for g in network.groups}
    return select(network, Candidate.of(kept), "l1")


def error(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    """Mean squared error relative to the output's variance."""
    with torch.no_grad():
        wanted = dense(x)
        return float((model(x) - wanted).square().mean() / wanted.var())


class Redundant(nn.Module):
    """The last channels that `use` reads are combinations of the first four."""

    def __init__(self, use: nn.Module, flat: bool = False) -> None:
        super().__init__()
        kind = nn.Linear(5, 6) if flat else nn.Conv2d(3, 6, 3, padding=1)
        self.make, self.use = kind.double(), use.double()
        with torch.no_grad():
            mix = torch.randn(2, 4, dtype=torch.float64)
            weight, bias = self.make.weight, self.make.bias
            weight[4:] = torch.einsum("ab,b...->a...", mix, weight[:4])
            bias[4:] = mix @ bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.make(x))


@pytest.mark.parametrize(
    "use",
    [
        nn.Conv2d(6, 5, 1),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.Conv2d(6, 5, 3, stride=2, padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(6, 5, 3, padding="same", bias=False),
        nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 7)),
        nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(6, 5, (2, 3), stride=(2, 1), dilation=(1, 2), bias=False),
    ],
)
def test_combinations_of_kept_channels_are_recovered(use: nn.Module) -> None:
    # Without padding at the border or a bias there, the combination holds at every pixel: the
    # affine rest is a constant, which a bias or the kept channels make up for.
    model = Redundant(use).eval()
    x = torch.randn(40, 3, 8, 8, dtype=torch.float64)
    network = trace(model, (x[:4],))
    selection = keeping(network, make=[0, 1, 2, 3])
    pruned = apply(network, selection)
    before = error(pruned, model, x)
    rows = 400 if isinstance(use, nn.Sequential) else 64
    x = x if rows == 64 else torch.randn(rows, 3, 8, 8, dtype=torch.float64)
    names = Reconstructor(network, [x[:20], x[20:]], positions=64, ridge=1e-12).apply(
        pruned, selection
    )
    assert before > 0.01
    assert error(pruned, model, torch.randn(8, 3, 8, 8, dtype=torch.float64)) < 1e-12
    assert names == ("use.weight",) if rows == 64 else ("use.1.weight",)


def test_linear_layers_are_recovered() -> None:
    model = Redundant(nn.Linear(6, 4), flat=True).eval()
    x = torch.randn(60, 7, 5, dtype=torch.float64)
    network = trace(model, (x[:4],))
    selection = keeping(network, make=[0, 1, 2, 3])
    pruned = apply(network, selection)
    Reconstructor(network, [x], ridge=1e-12).apply(pruned, selection)
    assert error(pruned, model, torch.randn(8, 7, 5, dtype=torch.float64)) < 1e-12


def test_transposed_weights_are_recovered() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4, dtype=torch.float64))
            self.bias = nn.Parameter(torch.randn(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    model = Redundant(Transposed(), flat=True).eval()
    x = torch.randn(60, 5, dtype=torch.float64)
    network = trace(model, (x[:4],))
    for selection in (
        keeping(network, make=[0, 1, 2, 3]),
        select(
            network,
            Candidate.of({g.name: 4 for g in network.groups}),
            ReconstructionImportance([x], ridge=1e-9),
        ),
    ):
        pruned = apply(network, selection)
        Reconstructor(network, [x], ridge=1e-12).apply(pruned, selection)
        assert error(pruned, model, torch.randn(8, 5, dtype=torch.float64)) < 1e-9


#: How near float32 statistics must be.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        for i in (1, 2):
            setattr(self, f"a{i}", nn.Conv2d(width, width, 3, padding=1, bias=False))
            setattr(self, f"n{i}", nn.BatchNorm2d(width))
            setattr(self, f"b{i}", nn.Conv2d(width, width, 3, padding=1, bias=False))
            setattr(self, f"m{i}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in (1, 2):
            y = F.relu(getattr(self, f"n{i}")(getattr(self, f"a{i}")(x)))
            x = F.relu(getattr(self, f"m{i}")(getattr(self, f"b{i}")(y)) + x)
        return x


def residual() -> tuple[nn.Module, Network, Tensor]:
    model = zoo.randomise(Residual()).eval()
    x = torch.randn(48, 3, 8, 8)
    return model, trace(model, (x[:4],)), x


def test_error_falls_on_unseen_data_and_earlier_errors_are_compensated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, network, x = residual()
    selection = keeping(network, a1=[0, 2, 5], a2=[1, 3, 4])
    unseen = torch.randn(32, 3, 8, 8)
    cut = apply(network, selection)
    fitted = apply(network, selection)
    names = Reconstructor(network, x.split(24)).apply(fitted, selection)
    assert names == ("b1.weight", "b2.weight")
    compensating = [c.weight for c in consumers(network) if c.other is not None]
    assert compensating == ["b1.weight", "b2.weight"]
    import autoprune.pruning._consumers as module

    monkeypatch.setattr(module, "overwritten", lambda network: True)
    alone = apply(network, selection)
    Reconstructor(network, x.split(24)).apply(alone, selection)
    assert error(fitted, model, unseen) < error(alone, model, unseen) < error(cut, model, unseen)


def test_keeping_everything_changes_nothing() -> None:
    model, network, x = residual()
    selection = keeping(network)
    pruned = apply(network, selection)
    for scope in ("consuming", "all"):
        assert Reconstructor(network, [x], scope=scope).apply(pruned, selection) == ()
    torch.testing.assert_close(pruned(x), model(x))


def test_scope_all_refits_what_is_downstream_too() -> None:
    _, network, x = residual()
    selection = keeping(network, a1=[0, 2, 5], a2=[1, 3, 4])
    for scope in ("consuming", "all"):
        pruned = apply(network, selection)
        names = Reconstructor(network, [x], scope=scope).apply(pruned, selection)
        assert ("a2.weight" in names) == (scope == "all")


def test_same_seed_same_weights_and_the_dense_network_is_untouched() -> None:
    model, network, x = residual()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    selection = keeping(network, a1=[0, 1, 2])
    results = []
    for _ in range(2):
        pruned = apply(network, selection)
        Reconstructor(network, [x], positions=5, seed=3).apply(pruned, selection)
        results.append(pruned.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_statistics_behind_unfitted_layers_move_by_as_much_as_pruning_moved_them() -> None:
    model, network, x = residual()
    selection = keeping(network, a1=[0, 1, 2], a2=[3, 4])
    pruned = apply(network, selection)
    Reconstructor(network, x.split(16)).apply(pruned, selection)
    seen: dict[str, Tensor] = {}
    for name, part in (("dense", model), ("pruned", pruned)):
        part.get_submodule("n2").register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0]})
        )
        with torch.no_grad():
            part(x)
    old, new = model.get_submodule("n2"), pruned.get_submodule("n2")
    kept = torch.tensor([3, 4])
    dense, now = seen["dense"][:, kept], seen["pruned"]
    moved = now.mean((0, 2, 3)) - dense.mean((0, 2, 3))
    grown = now.var((0, 2, 3)) / dense.var((0, 2, 3))
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(new.running_mean, old.running_mean[kept] + moved, **CLOSE)
    torch.testing.assert_close(new.running_var, old.running_var[kept] * grown, **CLOSE)


def test_statistics_stay_where_pruning_moved_nothing() -> None:
    """A few calibration images that are unlike the training data change nothing by themselves."""
    model, network, x = residual()
    norm = model.get_submodule("n1")
    with torch.no_grad():
        norm.weight[5:], norm.bias[5:] = 0, -1  # units that give nothing behind the ReLU
    selection = keeping(network, a1=[0, 1, 2, 3, 4])
    pruned = apply(network, selection)
    Reconstructor(network, [3 * x + 1]).apply(pruned, selection)
    old, new = model.get_submodule("n2"), pruned.get_submodule("n2")
    torch.testing.assert_close(new.running_mean, old.running_mean, **CLOSE)
    torch.testing.assert_close(new.running_var, old.running_var, **CLOSE)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 12, 3, padding=1)
        self.use = nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.end = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.use(F.relu(self.make(x))))


def test_grouped_convolutions() -> None:
    model = Grouped().eval()
    x = torch.randn(40, 3, 8, 8)
    network = trace(model, (x[:4],))
    selection = halves(network)
    cut, fitted = apply(network, selection), apply(network, selection)
    names = Reconstructor(network, [x]).apply(fitted, selection)
    assert "end.weight" in names
    unseen = torch.randn(32, 3, 8, 8)
    assert error(fitted, model, unseen) < 0.7 * error(cut, model, unseen)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(6, 8)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(torch.relu(self.make(x)))))


def test_shared_parameters_are_left_alone() -> None:
    network = trace(Tied().eval(), (torch.randn(4, 6),))
    assert [c.weight for c in consumers(network)] == ["make.weight"]


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_every_architecture_can_be_refitted(name: str) -> None:
    network = traced(name)
    inputs = network.example_inputs
    batches = [zoo.with_batch(inputs, len(inputs[0])) for _ in range(6)]
    selection = halves(network)
    for scope in ("consuming", "all"):
        cut, fitted = apply(network, selection), apply(network, selection)
        reconstructor = Reconstructor(network, batches, positions=16, scope=scope)
        names = reconstructor.apply(fitted, selection)
        before, after = cut.state_dict(), fitted.state_dict()
        assert all(torch.isfinite(after[key]).all() for key in after)
        changed = {key for key in after if not torch.equal(before[key], after[key])}
        assert bool(changed) == bool(names)
        assert {key.rpartition(".")[2] for key in changed} <= ALLOWED, changed


#: What reconstruction may change besides the weights of layers.
ALLOWED = {"weight", "bias", "running_mean", "running_var", "in_proj_weight", "in_proj_bias"}


def test_memory_is_bounded() -> None:
    _, network, x = residual()
    selection = keeping(network, a1=[0, 1, 2])
    small = Reconstructor(network, [x], positions=64, max_bytes=20_000)
    stored = sum(v.nbytes for s in small._samples.values() for v in s.values)
    assert 0 < stored <= 20_000
    assert small.apply(apply(network, selection), selection) == ("b1.weight",)


def test_bad_input() -> None:
    _, network, x = residual()
    selection = keeping(network, a1=[0, 1, 2])
    with pytest.raises(ConfigError, match="got none"):
        Reconstructor(network, [])
    with pytest.raises(ConfigError, match="one tensor"):
        Reconstructor(network, x)
    with pytest.raises(ConfigError, match="positions"):
        Reconstructor(network, [x], positions=0)
    with pytest.raises(ConfigError, match="ridge"):
        Reconstructor(network, [x], ridge=0)
    with pytest.raises(ConfigError, match="scope"):
        Reconstructor(network, [x], scope="some")  # type: ignore[arg-type]
    with pytest.raises(SurgeryError, match="1 inputs"):
        Reconstructor(network, [(x, x)])
    with pytest.raises(SurgeryError, match="shaped like"):
        Reconstructor(network, [x[:, :2]])
    with pytest.raises(SurgeryError, match="finite"):
        Reconstructor(network, [x * torch.nan])
    other = apply(network, keeping(network, a1=[0, 1]))
    with pytest.raises(SurgeryError, match="pruned with"):
        Reconstructor(network, [x]).apply(other, selection)


def test_importance_takes_redundant_channels_first() -> None:
    model = Redundant(nn.Conv2d(6, 5, 3)).eval()
    x = torch.randn(40, 3, 8, 8, dtype=torch.float64)
    network = trace(model, (x[:4],))
    importance = ReconstructionImportance([x], ridge=1e-9)
    scores = importance.scores(network)["make"]
    assert sorted(scores) == list(range(6))
    kept = select(network, Candidate.of({g.name: 4 for g in network.groups}), importance)
    pruned = apply(network, kept)
    Reconstructor(network, [x], ridge=1e-12).apply(pruned, kept)
    assert error(pruned, model, x) < 1e-9


def normed(model: nn.Module, x: Tensor) -> Tensor:
    """What the last norm gives: what is fitted, and no ReLU behind it."""
    found = []
    hook = model.get_submodule("m2").register_forward_hook(lambda *args: found.append(args[2]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]


def test_importance_is_the_error_after_refitting() -> None:
    _, network, x = residual()
    importance = ReconstructionImportance([x], positions=64)
    first = int(np.argmin(importance.scores(network)["a2"]))
    reconstructor = Reconstructor(network, [x], positions=64)
    errors = []
    for unit in range(8):
        selection = keeping(network, a2=[u for u in range(8) if u != unit])
        pruned = apply(network, selection)
        reconstructor.apply(pruned, selection)
        errors.append(float((normed(pruned, x) - normed(network.model, x)).square().mean()))
    assert first == int(np.argmin(errors))


def test_importance_falls_back_and_checks() -> None:
    model, inputs = zoo.build(sorted(set(zoo.ZOO) - zoo.NEEDS_TRANSFORMERS)[0])
    network = trace(model, inputs)
    scores = ReconstructionImportance([inputs], steps=2).scores(network)
    assert {n: len(v) for n, v in scores.items()} == {g.name: g.units for g in network.groups}
    with pytest.raises(ConfigError, match="steps"):
        ReconstructionImportance([inputs], steps=0)
    with pytest.raises(ConfigError, match="ridge"):
        ReconstructionImportance([inputs], ridge=0)
