from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.pruning.recover import Epoch, distillation, recover

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def task() -> tuple[Batches, Any]:
    """Two moons of sorts: linearly not separable; evaluated on the training data."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        assert not model.training
        with torch.no_grad():
            return {"accuracy": float((model(x).argmax(1) == y).float().mean())}

    return list(zip(x.split(32), y.split(32), strict=True)), evaluate


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 2)
    )


def test_accuracy_is_recovered_and_the_best_epoch_kept() -> None:
    batches, evaluate = task()
    model = net().eval()
    seen: list[Epoch] = []
    result = recover(
        model, None, batches, evaluate, epochs=8, lr=0.1, on_progress=seen.append, seed=1
    )
    assert result.history == tuple(seen)
    assert [e.epoch for e in seen] == list(range(9))
    assert result.best.metrics["accuracy"] == max(e.metrics["accuracy"] for e in seen) > 0.9
    assert evaluate(model) == result.best.metrics
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_teaching_alone_brings_the_network_to_the_teacher() -> None:
    batches, evaluate = task()
    teacher = net(seed=3)
    recover(teacher, None, batches, evaluate, epochs=10, lr=0.1)
    teacher.train()
    model = net(seed=4)
    wrong = [(x, 1 - y) for x, y in batches]
    recover(model, teacher, wrong, None, epochs=10, lr=0.1, distill=1.0, optimizer="sgd")
    assert teacher.training
    model.eval()
    assert evaluate(model)["accuracy"] > 0.85


def test_never_worse_than_it_began() -> None:
    batches, evaluate = task()
    model = net()
    recover(model, None, batches, evaluate, epochs=10, lr=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    start = evaluate(model.eval())["accuracy"]
    wrong = [(x, 1 - y) for x, y in batches]
    result = recover(model, None, wrong, evaluate, epochs=9, lr=0.5, patience=2)
    assert result.best.epoch == 0
    assert result.best.metrics["accuracy"] == start == evaluate(model)["accuracy"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert len(result.history) == 3
    assert "no better epoch in 2" in result.reason


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_weights(optimizer: Any) -> None:
    batches, _ = task()
    results = []
    for seed in (5, 5, 6):
        model = net(dropout=0.5)
        torch.manual_seed(len(results))
        recover(model, net(2), batches, None, epochs=2, lr=0.01, seed=seed, optimizer=optimizer)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_callers_random_state_is_left_alone() -> None:
    batches, _ = task()
    model = net(dropout=0.5)
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    recover(model, None, batches, epochs=1)
    assert torch.equal(torch.rand(3), wanted)


def test_own_loss_gets_the_output_and_the_targets() -> None:
    model = nn.Linear(2, 3)
    shapes = []

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        shapes.append((tuple(output.shape), tuple(targets.shape)))
        return (output - targets).square().mean()

    batches = [(torch.randn(8, 2), torch.randn(8, 3))] * 3
    result = recover(model, None, iter(batches) and batches, None, epochs=2, lr=0.1, loss=loss)
    assert shapes == [((8, 3), (8, 3))] * 6
    assert result.history[2].loss < result.history[1].loss
    assert result.best.epoch == 2


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    p, q = (b / 3).softmax(1), (a / 3).softmax(1)
    wanted = 9 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(distillation(a, b, 3.0), wanted)
    torch.testing.assert_close(distillation({"logits": a}, (b,), 3.0), wanted)
    torch.testing.assert_close(distillation(a, a, 3.0), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_a_loss_that_diverges_ends_recovery() -> None:
    batches, evaluate = task()
    calls = []

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        calls.append(0)
        factor = 1.0 if len(calls) <= 2 * len(batches) else torch.nan
        return F.cross_entropy(output, targets) * factor

    model = net()
    result = recover(model, None, batches, evaluate, epochs=5, lr=0.1, loss=loss)
    assert len(result.history) == 3
    assert "nan in epoch 3" in result.reason
    assert evaluate(model.eval()) == result.best.metrics
    with pytest.raises(EvaluationError, match="first epoch"):
        recover(model, None, batches, None, loss=loss)


def test_bad_input() -> None:
    batches, evaluate = task()
    model = net()
    for wrong, match in [
        ({"epochs": 0}, "epochs"),
        ({"lr": 0.0}, "lr"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"warmup": 1.0}, "warmup"),
        ({"distill": 1.5}, "distill"),
        ({"temperature": 0.0}, "temperature"),
        ({"patience": 0}, "patience"),
        ({"clip_norm": 0.0}, "clip_norm"),
    ]:
        with pytest.raises(ConfigError, match=match):
            recover(model, None, batches, evaluate, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got none"):
        recover(model, None, [])
    with pytest.raises(ConfigError, match="used up"):
        recover(model, None, iter(batches))
    with pytest.raises(ConfigError, match="pair"):
        recover(model, None, [batches[0][0]])
    with pytest.raises(EvaluationError, match="'accuracy'"):
        recover(model, None, batches, lambda _: {"top1": 1.0})
    with pytest.raises(EvaluationError, match="finite"):
        recover(model, None, batches, lambda _: {"accuracy": float("nan")})
    with pytest.raises(ConfigError, match="one shape"):
        recover(model, nn.Linear(2, 3), batches)
