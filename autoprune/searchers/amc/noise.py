"""AMC's exploration: truncated normal noise that stays, then decays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import ConfigError


@dataclass(frozen=True)
class Exploration:
    """How wide actions are drawn around the agent's, episode by episode.

    Attributes:
        sigma: standard deviation during the warm-up (0.5 in the paper).
        warmup: episodes with `sigma`, before the agent learns (100 in the paper).
        decay: factor of each later episode (0.95 in the authors' code).
        least: the standard deviation never falls below it.
    """

    sigma: float = 0.5
    warmup: int = 100
    decay: float = 0.95
    least: float = 0.02

    def __post_init__(self) -> None:
        if not self.sigma > 0 or not 0 <= self.least <= self.sigma:
            raise ConfigError(
                f"sigma must be above 0 and least from 0 to sigma, got {self.sigma} and "
                f"{self.least}"
            )
        if self.warmup < 0 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"warmup must be at least 0 and decay above 0 and at most 1, got {self.warmup} "
                f"and {self.decay}"
            )

    @classmethod
    def planned(
        cls,
        trials: int | None,
        sigma: float = 0.5,
        warmup: int | None = None,
        decay: float | None = None,
        least: float = 0.02,
    ) -> Exploration:
        """The paper's 100 + 300 episodes, or the same proportions for fewer.

        Left out, `warmup` is a quarter of the trials planned (100 at most), and `decay` such that
        the standard deviation reaches `least` after two thirds of the remaining episodes (0.95
        where the number of trials is not known).
        """
        if warmup is None:
            warmup = 100 if trials is None else min(100, max(1, trials // 4))
        if decay is None:
            decay = 0.95
            if trials is not None and trials > warmup and 0 < least < sigma:
                episodes = max(1.0, (trials - warmup) * 2 / 3)
                decay = math.exp(math.log(least / sigma) / episodes)
        return cls(sigma, warmup, decay, least)

    def width(self, episode: int) -> float:
        """Standard deviation in an episode (from 0)."""
        return max(self.least, self.sigma * self.decay ** max(0, episode - self.warmup))


def truncated_normal(
    mean: float, sigma: float, low: float, high: float, rng: np.random.Generator
) -> float:
    """One number of N(mean, sigma²) given that it lies in [low, high]; so must the mean."""
    from scipy.special import ndtr, ndtri

    mean = min(max(mean, low), high)
    left, right = ndtr((low - mean) / sigma), ndtr((high - mean) / sigma)
    value = mean + sigma * float(ndtri(left + rng.random() * (right - left)))
    return float(np.clip(value, low, high))
