"""Learning rates of recovery, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoprune.core.errors import ConfigError


@dataclass(frozen=True)
class Rewind:
    """The schedule that the dense network was trained with, to be rewound.

    Renda et al. 2020, "Comparing rewinding and fine-tuning in neural network pruning": after
    pruning, the last epochs of the original schedule are trained again, at its learning rates.

    Attributes:
        epochs: that the dense network was trained for.
        lr: its first learning rate.
        milestones: epochs at which it was multiplied by `gamma`; none is a cosine down to 0.
        gamma: factor at each milestone.

    Raises:
        ConfigError: a value is out of range.
    """

    epochs: int
    lr: float = 0.1
    milestones: Sequence[int] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        rules = [
            (self.epochs >= 1, "rewind.epochs must be at least 1", self.epochs),
            (self.lr > 0, "rewind.lr must be greater than 0", self.lr),
            (0 < self.gamma < 1, "rewind.gamma must lie between 0 and 1", self.gamma),
            (
                all(0 < m < self.epochs for m in self.milestones),
                f"rewind.milestones must lie between 0 and rewind.epochs ({self.epochs})",
                self.milestones,
            ),
        ]
        for fine, rule, got in rules:
            if not fine:
                raise ConfigError(f"{rule}, got {got!r}")
        object.__setattr__(self, "milestones", tuple(sorted(self.milestones)))

    def rate(self, epoch: float) -> float:
        """Learning rate after so many epochs of the original training."""
        if not self.milestones:
            return 0.5 * self.lr * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs)))
        return self.lr * self.gamma ** sum(epoch >= m for m in self.milestones)


def schedule(
    lr: float, warmup: float, rewind: Rewind | None, epochs: int, batches: int
) -> Callable[[int], float]:
    """The learning rate at each step, from 0.

    Args:
        lr: peak of the cosine.
        warmup: share of the steps in which it rises linearly.
        rewind: the original schedule, whose last `epochs` are taken instead of the cosine.
        epochs: of the recovery.
        batches: steps in each.

    Raises:
        ConfigError: the recovery is longer than the schedule that it rewinds.
    """
    if rewind is not None:
        if epochs > rewind.epochs:
            raise ConfigError(
                f"the schedule can't be rewound by {epochs} epochs, the original training took "
                f"{rewind.epochs}; give fewer `epochs`"
            )
        first = rewind.epochs - epochs
        return lambda step: rewind.rate(first + step / batches)
    steps = epochs * batches
    rising = int(steps * warmup)

    def rate(step: int) -> float:
        if step < rising:
            return lr * (step + 1) / (rising + 1)
        done = min(1.0, (step - rising) / max(steps - rising, 1))
        return 0.5 * lr * (1 + math.cos(math.pi * done))

    return rate
