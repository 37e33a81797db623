"""AMC as a gymnasium environment, for agents that one wants to train oneself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Candidate
from autoprune.core.errors import SearchError
from autoprune.searchers.amc.walk import FEATURES, Walk
from autoprune.searchers.base import SearchContext
from autoprune.space.projection import Oracle, check_feasible

Observation = npt.NDArray[np.float32]


class AmcEnv(gymnasium.Env[Observation, Observation]):
    """One episode decides on every group of a network, in order.

    Observations are AMC's eleven features, (11,) in [0, 1]; actions are keep ratios, (1,) in
    [`low`, 1], clipped so that the budget can still be held. The reward is 0 until the last step,
    and there what `reward` says of the candidate; `info["candidate"]` holds it.

    Args:
        context: the problem.
        reward: candidate → its reward.
        low: the least keep ratio.

    Raises:
        InfeasibleBudgetError: nothing in the space holds the budget.
    """

    def __init__(
        self, context: SearchContext, reward: Callable[[Candidate], float], low: float = 0.2
    ) -> None:
        check_feasible(context.space, context.budget, context.cost_model, z=context.z)
        oracle = Oracle(context.space, context.budget, context.cost_model, context.z)
        self.walk = Walk(oracle, low)
        if not len(self.walk.steps):
            raise SearchError("a space must have at least one decision with a choice")
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Box(low, 1.0, (1,), np.float32)
        self._reward = reward
        self._levels = self.walk.reserve()
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed, options=options)
        self._levels = self.walk.reserve()
        self._step = 0
        return self._observe(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide on the next group.

        Raises:
            SearchError: the episode is over; `reset` first.
        """
        if self._step >= len(self.walk.steps):
            raise SearchError("an episode that is over must be reset before the next step")
        index = self.walk.steps[self._step]
        ratio = float(np.asarray(action).reshape(-1)[0])
        self._levels[index] = self.walk.clip(self._step, self._levels, ratio)
        self._step += 1
        done = self._step == len(self.walk.steps)
        info: dict[str, Any] = {"level": int(self._levels[index])}
        reward = 0.0
        if done:
            info["candidate"] = self.walk.space.candidate(self._levels)
            reward = float(self._reward(info["candidate"]))
        return self._observe(), reward, done, False, info

    def _observe(self) -> Observation:
        step = min(self._step, len(self.walk.steps) - 1)
        return self.walk.state(step, self._levels).astype(np.float32)
