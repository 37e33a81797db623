"""AMC as a searcher: each suggestion is an episode, each finished trial its reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.amc.agent import Agent
from autoprune.searchers.amc.noise import Exploration, truncated_normal
from autoprune.searchers.amc.walk import FEATURES, Walk
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher


class AmcSearcher(ProposingSearcher):
    """AMC (He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile
    Devices", ECCV) on stable-baselines3's agents.

    The agent walks through the network and gives each group a keep ratio; an action is clipped so
    that the budget can still be held with all later groups pruned to `low`. The reward of the
    evaluated candidate is given to every step. Exploration is truncated normal around the agent's
    actions: wide during a warm-up, then narrower from episode to episode.

    Two things differ from the paper, and can be turned off: an episode that leaves some of the
    budget unused is filled up (`fill`), and the first candidate is the uniform one
    (`uniform_first`). What is remembered is always the episode that leads to the candidate that
    was evaluated. Trials of other searchers are remembered as episodes too.

    Args:
        context: the problem.
        agent: "ddpg" (the paper's), "td3" or "sac".
        reward: "error", minus the error (the budget does the rest), or "error_log_cost", minus
            the error times the logarithm of the cost in millionths of the dense network's (the
            paper's R_FLOPs), for finding the least cost at little loss; of the first bound.
        low: the least keep ratio of an action, and what later groups may be pruned to at most.
        warmup: episodes before the agent learns; None is a quarter of the trials, 100 at most.
        sigma: standard deviation of the exploration during the warm-up.
        decay: of the exploration from then on, by episode; None fits it to the trials planned.
        least_sigma: where the decay ends.
        updates: gradient steps after an episode; None is as many as the episode had steps, and
            more where fewer trials are planned than the paper's 400, so that the agent takes as
            many in all as in the paper's 300 episodes (8 times the episode's steps at most).
        fill: whether what is left of the budget is used up.
        clip: whether actions are clipped one by one, as in the paper; False takes them as they
            are and scales the whole episode to the budget instead.
        uniform_first: whether the first candidate is the uniform one.
        hidden: units in each of the two hidden layers.
        actor_rate: learning rate of the actor; None is the paper's 1e-4, or 1e-3 where fewer than
            its 400 trials are planned.
        critic_rate: learning rate of the critic.
        tau: soft update of the target networks.
        batch: transitions in a batch.
        replay: capacity of the replay buffer, in transitions.
        standardise: whether rewards are divided by their standard deviation in the replay buffer.
    """

    def __init__(
        self,
        context: SearchContext,
        agent: Literal["ddpg", "td3", "sac"] = "ddpg",
        reward: Literal["error", "error_log_cost"] = "error",
        low: float = 0.2,
        warmup: int | None = None,
        sigma: float = 0.5,
        decay: float | None = None,
        least_sigma: float = 0.02,
        updates: int | None = None,
        fill: bool = True,
        clip: bool = True,
        uniform_first: bool = True,
        hidden: int = 300,
        actor_rate: float | None = None,
        critic_rate: float = 1e-3,
        tau: float = 0.01,
        batch: int = 64,
        replay: int = 2000,
        standardise: bool = True,
    ) -> None:
        super().__init__(context)
        if reward not in ("error", "error_log_cost"):
            raise ConfigError(f"reward must be 'error' or 'error_log_cost', got {reward!r}")
        if not 0.0 < low < 1.0:
            raise ConfigError(f"low must be above 0 and below 1, got {low}")
        if updates is not None and updates < 1:
            raise ConfigError(f"updates must be at least 1, got {updates}")
        if warmup is not None and context.trials is not None and warmup >= context.trials:
            raise ConfigError(
                f"warmup must be below the {context.trials} trials planned, got {warmup}; the "
                "agent would never learn"
            )
        self.walk = Walk(self.oracle, low)
        self.exploration = Exploration.planned(context.trials, sigma, warmup, decay, least_sigma)
        self.agent = Agent(
            agent,
            len(FEATURES),
            low,
            int(self.rng.integers(2**31)),
            hidden=hidden,
            actor_rate=actor_rate or (1e-3 if (context.trials or 400) < 400 else 1e-4),
            critic_rate=critic_rate,
            tau=tau,
            batch=batch,
            capacity=replay,
            standardise=standardise,
        )
        self._reward = reward
        self._updates = updates or self._planned_updates()
        self._fill = fill and reward == "error"
        self._uniform_first = uniform_first
        self._clip = clip
        self._episodes = 0
        self._finished = 0
        self._repeats = 0
        self._worst: float | None = None
        graph = self.space.kernels
        self._dense_cost = context.cost_model.predict(graph.instantiate(graph.units[None]))[0]

    def _planned_updates(self) -> int:
        """Gradient steps an episode, so that all of them make up the paper's 300 episodes'.

        Eight times as many as the episode has steps at most.
        """
        learning = max(1, (self.context.trials or 400) - self.exploration.warmup)
        return max(1, round(len(self.walk.steps) * min(8.0, max(1.0, 300 / learning))))

    def _propose(self) -> Ints | None:
        if self._uniform_first and self._episodes == 0 and self._repeats == 0:
            return self._hold(self.space.units.astype(np.float64), fill="target")
        return self.episode()

    def episode(self) -> Ints:
        """Walk through the network once; the (n,) levels it ends with."""
        levels = self.walk.reserve()
        width = self.exploration.width(self._episodes) * 2.0 ** (self._repeats / 4)
        width = min(width, self.exploration.sigma)
        for t, index in enumerate(self.walk.steps.tolist()):
            action = self.agent.act(self.walk.state(t, levels))
            if self.agent.kind != "sac" or self._episodes < self.exploration.warmup:
                action = truncated_normal(action, width, self.walk.low, 1.0, self.rng)
            place = self.walk.clip if self._clip else self.walk.nearest
            levels[index] = place(t, levels, action)
        if self._fill or not self._clip:
            wanted = self.space.choice(levels).astype(np.float64)
            levels = self._hold(wanted, "budget" if self._fill else "none")
        return levels

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._episodes += 1
        self._repeats = 0

    def _refused(self, levels: Ints) -> None:
        self._repeats += 1  # explore more widely until something new comes up

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            reward = self.reward(trial)
            if reward is None:
                reward = self._worst  # failed: as bad as the worst so far
            if reward is None or not len(self.walk.steps):
                continue
            self._worst = reward if self._worst is None else min(self._worst, reward)
            self.agent.remember(self.walk.states(levels), self.walk.actions(levels), reward)
            self._finished += 1
            if self._finished > self.exploration.warmup:
                self.agent.learn(self._updates)

    def reward(self, trial: Trial) -> float | None:
        """The reward of a trial; None where it failed."""
        score = trial.score(self.context.objective)
        if not math.isfinite(score):
            return None
        error = 1.0 - score
        if self._reward == "error":
            return -error
        return -error * math.log(self._millionths(trial.measured or trial.predicted))

    def _millionths(self, cost: Cost) -> float:
        metric = next(iter(self.oracle.limits))
        value, dense = cost.get(metric), self._dense_cost.get(metric)
        if value is None or not dense:
            raise ConfigError(
                f"reward 'error_log_cost' needs the {metric} of every trial and of the dense "
                "network; one is not known"
            )
        return float(max(math.e, 1e6 * value / dense))
