"""What a network is taught by in recovery: features, schedules, precision, memory layout."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.graph import trace
from autoprune.pruning._features import distance, points, tapped
from autoprune.pruning._schedule import schedule
from autoprune.pruning._student import Student
from autoprune.pruning._teaching import distillation, teaching
from autoprune.pruning.recover import Rewind, recover
from autoprune.pruning.surgery import prune
from examples.resnet_cifar import CifarResNet, example_inputs


def images(count: int = 8, batch: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 32, 32, generator=generator)
    y = torch.randint(0, 10, (count,), generator=generator)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def pair(inner: int = 4) -> tuple[nn.Module, nn.Module]:
    """A ResNet-8, and the same with fewer inner channels."""
    torch.manual_seed(0)
    dense = CifarResNet(1).eval()
    network = trace(dense, example_inputs(2))
    kept = {g.name: inner if g.name.endswith(".conv1") else g.units for g in network.groups}
    return dense, prune(network, Candidate.of(kept), check=False)


def student(model: nn.Module, teacher: nn.Module | None, **options: Any) -> Student:
    settings: dict[str, Any] = {
        "distill": 0.0, "temperature": 4.0, "features": 0.0, "clip_norm": None, "precision": "fp32",
    }  # fmt: skip
    return Student(model, teacher, F.cross_entropy, **{**settings, **options})


def test_a_residual_networks_stages_are_matched() -> None:
    dense, pruned = pair()
    args = (images()[0][0],)
    assert points(pruned, dense, args, {}) == ("layer1", "layer2", "layer3")
    narrow = CifarResNet(1)
    narrow.layer2 = nn.Sequential(nn.Conv2d(16, 20, 3, 2, 1), nn.Conv2d(20, 32, 1))
    assert points(pruned, narrow.eval(), args, {}) == ("layer1", "layer2", "layer3")
    assert points(nn.Linear(3072, 10), nn.Linear(3072, 10), (torch.randn(2, 3072),), {}) == ()


def test_blocks_of_a_deep_module_list_are_spread_evenly() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(12))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    found = points(Deep(), Deep(), (torch.randn(2, 3, 4),), {})
    assert found == tuple(f"blocks.{i}" for i in (1, 3, 5, 7, 9, 11))


class Staged(nn.Module):
    """A stage of convolutions, `width` channels wide inside, and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.stage = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 1)
        )
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stage(x).mean((2, 3)))
        return out


def test_matching_features_brings_them_nearer_and_leaves_no_hooks() -> None:
    batches = images()

    def apart(own: nn.Module, dense: nn.Module) -> float:
        with (
            torch.no_grad(),
            tapped(own, ("stage",)) as caught,
            tapped(dense, ("stage",)) as taught,
        ):
            own(batches[0][0])
            dense(batches[0][0])
            return float(distance(caught.take(), taught.take()))

    found = {}
    dense = Staged(16)
    for weight in (0.0, 10.0):
        model = Staged(8)
        recover(model, dense, batches, epochs=20, lr=0.05, features=weight, distill=1.0)
        found[weight] = apart(model, dense)
        assert not any(m._forward_hooks for net in (dense, model) for m in net.modules())
    assert found[10.0] < 0.5 * found[0.0]


def test_the_features_distance_is_part_of_the_loss() -> None:
    dense, pruned = pair()
    batches = images()[:1]
    tuner = torch.optim.SGD(pruned.parameters(), lr=1.0)
    losses = []
    for weight in (0.0, 1.0, 3.0):
        state = {k: v.clone() for k, v in pruned.state_dict().items()}
        losses.append(
            student(pruned, dense, features=weight).epoch(batches, tuner, lambda _: 0.0, 0)[0]
        )
        pruned.load_state_dict(state)
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)


def test_rewinding_takes_the_last_epochs_of_the_original_schedule() -> None:
    steps = schedule(9.0, 0.1, Rewind(200, 0.1, (150, 100)), epochs=60, batches=10)
    rates = [steps(i) for i in (0, 99, 100, 599)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    cosine = schedule(9.0, 0.1, Rewind(10, 2.0), epochs=5, batches=2)
    assert cosine(0) == pytest.approx(1.0)
    assert cosine(10) == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="took 10"):
        schedule(1.0, 0.1, Rewind(10), epochs=11, batches=1)
    for wrong, match in [
        ({"epochs": 0}, "rewind.epochs"),
        ({"epochs": 9, "lr": 0.0}, "rewind.lr"),
        ({"epochs": 9, "gamma": 1.0}, "rewind.gamma"),
        ({"epochs": 9, "milestones": (9,)}, "rewind.milestones"),
    ]:
        with pytest.raises(ConfigError, match=match):
            Rewind(**wrong)  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    rate = schedule(2.0, 0.25, None, epochs=2, batches=10)
    rates = [rate(i) for i in range(20)]
    assert rates[:5] == pytest.approx([2 * i / 6 for i in range(1, 6)])
    assert rates[5] == pytest.approx(2.0)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.05


def test_rewound_rates_are_the_ones_trained_with() -> None:
    model = nn.Linear(2, 2)
    start = model.weight.detach().clone()
    batches = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))]
    recover(model, None, batches, epochs=1, lr=5.0, rewind=Rewind(3, 1e-9, (1,)))
    torch.testing.assert_close(model.weight.detach(), start, atol=1e-8, rtol=0)


def test_half_precision_computes_in_bfloat16_and_keeps_the_weights_whole() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)
            self.seen: list[torch.dtype] = []

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x)
            self.seen.append(y.dtype)
            return y

    model, teacher = Look(), Look()
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    recover(model, teacher, batches, epochs=1, precision="bf16")
    assert {*model.seen, *teacher.seen} == {torch.bfloat16}
    assert model.net.weight.dtype == torch.float32
    model.seen.clear()
    recover(model, teacher, batches, epochs=1, precision="auto")
    assert set(model.seen) == {torch.float32}
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        recover(model, teacher, batches, epochs=1, precision="fp16")


@pytest.mark.parametrize("flatten", [True, False])
def test_images_come_in_channels_last_memory_where_the_network_takes_it(flatten: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4 * 30 * 30, 10)
            self.seen: list[bool] = []

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
            y = self.conv(x)
            y = y.flatten(1) if flatten else y.view(len(y), -1)
            out: Tensor = self.head(y)
            return out

    model = Net()
    recover(model, None, images(), epochs=1)
    assert model.seen == [flatten] * 2


def test_wrong_settings() -> None:
    model = nn.Linear(2, 2)
    batches = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))]
    for wrong, match in [
        ({"features": -1.0}, "features"),
        ({"precision": "int8"}, "precision"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ]:
        with pytest.raises(ConfigError, match=match):
            recover(model, None, batches, **wrong)  # type: ignore[arg-type]


def test_classes_of_a_segmentation_are_the_second_dimension() -> None:
    wanted, own = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    labels = torch.zeros(2, 4, 6, dtype=torch.long)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (own, wanted)]
    expected = distillation(*flat, 4.0)
    for own_loss in (False, True):
        torch.testing.assert_close(teaching(own, wanted, labels, 4.0, own_loss), expected)
    torch.testing.assert_close(distillation(own, wanted, 4.0), expected)
    tokens = (own.flatten(2), wanted.flatten(2))  # cross-entropy has the classes there
    found = teaching(*tokens, labels.flatten(1), 4.0, own_loss=False)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 3)])
def test_a_regression_is_taught_by_its_values(shape: tuple[int, ...]) -> None:
    wanted = 5 + torch.randn(shape)
    shifted = wanted + 2  # a softmax over outputs or over samples would not see it
    found = teaching(shifted, wanted, torch.randn(shape), 4.0, own_loss=True)
    torch.testing.assert_close(found, 4 / wanted.var(unbiased=False))
    assert float(teaching(wanted, wanted, torch.randn(shape), 4.0, own_loss=True)) == 0


def test_every_output_of_a_detector_teaches() -> None:
    wanted = {"maps": [torch.randn(2, 3, 4), torch.randn(2, 5)], "count": torch.arange(3)}
    moved = {"maps": [wanted["maps"][0], wanted["maps"][1] + 1], "count": wanted["count"]}
    assert float(teaching(moved, wanted, {"boxes": []}, 4.0, own_loss=True)) > 0.1
    with pytest.raises(ConfigError, match="the same outputs"):
        teaching({"maps": []}, wanted, None, 4.0, own_loss=True)
    with pytest.raises(ConfigError, match="one shape"):
        teaching(torch.ones(2), torch.ones(3), None, 4.0, own_loss=True)


def test_recovery_of_a_regression_comes_near_its_teacher() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)).eval()
    x = torch.randn(128, 4)
    with torch.no_grad():
        y = dense(x) + 10  # the task alone would lead away from the teacher
    pruned = prune(trace(dense, x[:2]), Candidate.of({"0": 16}))
    batches = [(a, b) for a, b in zip(x.split(32), y.split(32), strict=True)]
    recover(pruned, dense, batches, epochs=40, lr=0.05, distill=1.0, loss=F.mse_loss)
    with torch.no_grad():
        assert float((pruned(x) - dense(x)).square().mean() / dense(x).var()) < 0.05
