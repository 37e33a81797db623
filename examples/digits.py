"""Handwritten digits (scikit-learn's, 8×8 pixels): a small residual network with depthwise layers.

Everything a search needs, without a download: the network, its training recipe, `evaluate`,
`calibration` batches and training batches. The blocks are inverted residuals (Sandler et al. 2018,
"MobileNetV2"), wide enough that fewer channels are less time on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(maxsize=1)
def data() -> dict[str, tuple[Tensor, Tensor]]:
    """The 1,797 images, split by class and a fixed seed into "train" (1,347) and "val" (450).

    Returns:
        split → images float32 (n, 1, 8, 8) of mean 0 and deviation 1, labels int64 (n,).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)
    inputs = (inputs - 4.88) / 6.02
    train, val = train_test_split(
        range(len(labels)), test_size=450, random_state=0, stratify=labels
    )
    classes = torch.from_numpy(labels).long()
    return {"train": (inputs[train], classes[train]), "val": (inputs[val], classes[val])}


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int = 1) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.expand(x)))
        y = F.relu(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(y))
        return x + y if self.residual else y


class DigitsNet(nn.Module):
    """Four inverted residuals at 8×8 and 4×4 pixels; 0.18 M parameters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            InvertedResidual(width, width, 2 * width),
            InvertedResidual(width, 2 * width, 2 * width, stride=2),
            InvertedResidual(2 * width, 2 * width, 4 * width),
            InvertedResidual(2 * width, 2 * width, 4 * width),
        )
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (batch, 1, 8, 8); returns logits (batch, 10)."""
        x = F.relu(self.bn(self.stem(x)))
        logits: Tensor = self.classifier(self.blocks(x).mean((2, 3)))
        return logits


def example_inputs(batch: int = 32) -> tuple[Tensor]:
    """Inputs to trace and to time with."""
    return (data()["val"][0][:batch],)


def calibration(count: int = 1024, batch: int = 256) -> list[Tensor]:
    """Batches of training images (batch, 1, 8, 8)."""
    return list(data()["train"][0][:count].split(batch))


class Loader:
    """Training batches, shifted by up to a pixel at random; another draw at each iteration."""

    def __init__(self, batch: int = 64, seed: int = 0) -> None:
        self.batch, self.seed, self.epoch = batch, seed, 0

    def __len__(self) -> int:
        return len(data()["train"][1]) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        inputs, labels = data()["train"]
        background = float(inputs.min())
        for chosen in torch.randperm(len(labels), generator=generator).split(self.batch):
            if len(chosen) < self.batch:
                return
            top, left = torch.randint(0, 3, (2,), generator=generator).tolist()
            padded = F.pad(inputs[chosen], (1, 1, 1, 1), value=background)
            yield padded[:, :, top : top + 8, left : left + 8], labels[chosen]


def train_batches() -> Loader:
    """Batches for fine-tuning."""
    return Loader()


def evaluate(model: nn.Module) -> dict[str, float]:
    """Top-1 accuracy on "val": {"accuracy": from 0 to 1}."""
    inputs, labels = data()["val"]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            right = (model(inputs).argmax(1) == labels).float().mean()
    finally:
        model.train(training)
    return {"accuracy": float(right)}


def train(
    epochs: int = 8, seed: int = 0, on_epoch: Callable[[int, float], None] | None = None
) -> DigitsNet:
    """Train the network from scratch: AdamW, one learning-rate cycle; about 10 seconds.

    Args:
        epochs: passes over the 1,347 training images.
        seed: of the weights and the batches.
        on_epoch: called with the epochs done and the mean loss of the last one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
    loader = Loader(seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 4e-3, total_steps=epochs * len(loader), pct_start=0.2
    )
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for inputs, labels in loader:
            loss = F.cross_entropy(model(inputs), labels, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if on_epoch is not None:
            on_epoch(epoch, total / len(loader))
    return model.eval()


def build() -> DigitsNet:
    """The trained network."""
    return train()
