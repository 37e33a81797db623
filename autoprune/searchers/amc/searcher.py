"""AMC as a searcher: each suggestion is an episode, each finished trial its reward."""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, SearchError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.amc.agent import Agent
from autoprune.searchers.amc.noise import Exploration, truncated_normal
from autoprune.searchers.amc.reward import Reward
from autoprune.searchers.amc.walk import FEATURES, Walk
from autoprune.searchers.amc.warm import warm_start_from
from autoprune.searchers.base import SearchContext, SearcherState
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.space.profiles import known_profiles

#: Best episodes that are explored around.
ELITES = 4
#: Gradient steps after an episode at least.
LEAST_UPDATES = 4


class AmcSearcher(ProposingSearcher):
    """AMC (He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile
    Devices", ECCV) on stable-baselines3's agents.

    The agent walks through the network and gives each group a keep ratio; an action is clipped so
    that the budget can still be held with all later groups pruned to `low`. The reward of the
    evaluated candidate is given to every step. Exploration is truncated normal around the agent's
    actions: wide during a warm-up, then narrower from episode to episode.

    What differs from the paper can be turned off: an episode that leaves some of the budget
    unused is filled up (`fill`), the first candidates are profiles (`profiles`), and a share of
    the episodes explores around the best ones so far instead of around the agent's actions
    (`elite`). What is remembered is always the episode that leads to the candidate that was
    evaluated. Trials of other searchers are remembered as episodes too.

    Args:
        context: the problem.
        agent: "ddpg" (the paper's), "td3" or "sac".
        reward: "error", minus the error (the budget does the rest), or "error_log_cost", minus
            the error times the logarithm of the cost (the paper's R_FLOPs, for accuracy-guaranteed
            compression: the least cost at no loss of accuracy); see `Reward`.
        min_accuracy: with "error_log_cost", what the score may not fall below: a number, or
            "dense" for the dense network's; None leaves it to the reward alone.
        low: the least keep ratio of an action, and what later groups may be pruned to at most.
        warmup: episodes before the agent learns; None is a quarter of the trials, 100 at most,
            and none after a warm start.
        sigma: standard deviation of the exploration during the warm-up; None is the paper's 0.5,
            or 0.2 after a warm start.
        decay: of the exploration from then on, by episode; None fits it to the trials planned.
        least_sigma: where the decay ends.
        elite: share of the episodes that explore around the best so far; 0 is the paper's.
        updates: gradient steps after an episode; None is as many as the episode had steps where
            the paper's 400 trials are planned. With fewer trials they are more, with more fewer,
            so that the agent takes about as many in all as in the paper's 300 episodes (8 times
            the episode's steps at most, 4 at least).
        fill: whether what is left of the budget is used up; never with "error_log_cost".
        clip: whether actions are clipped one by one, as in the paper; False takes them as they
            are and scales the whole episode to the budget instead.
        profiles: whether the first candidates are the uniform one and those that spare widely
            shared channels (`autoprune.space.profiles`).
        warm_start: run folder or checkpoint of an AMC search, whose agent is begun with.
        hidden: units in each of the two hidden layers.
        actor_rate: learning rate of the actor; None is the paper's 1e-4, or 1e-3 where fewer than
            its 400 trials are planned.
        critic_rate: learning rate of the critic.
        tau: soft update of the target networks.
        discount: of later steps' values; 1 is the paper's.
        batch: transitions in a batch.
        replay: capacity of the replay buffer, in transitions.
        standardise: whether rewards are divided by their standard deviation in the replay buffer.
    """

    replays = False

    def __init__(
        self,
        context: SearchContext,
        agent: Literal["ddpg", "td3", "sac"] = "ddpg",
        reward: Literal["error", "error_log_cost"] = "error",
        min_accuracy: float | Literal["dense"] | None = None,
        low: float = 0.2,
        warmup: int | None = None,
        sigma: float | None = None,
        decay: float | None = None,
        least_sigma: float = 0.02,
        elite: float = 0.8,
        updates: int | None = None,
        fill: bool = True,
        clip: bool = True,
        profiles: bool = True,
        warm_start: str | None = None,
        hidden: int = 300,
        actor_rate: float | None = None,
        critic_rate: float = 1e-3,
        tau: float = 0.01,
        discount: float = 1.0,
        batch: int = 64,
        replay: int = 2000,
        standardise: bool = True,
    ) -> None:
        super().__init__(context)
        if not 0.0 < low < 1.0:
            raise ConfigError(f"low must be above 0 and below 1, got {low}")
        for name, share in (("elite", elite), ("discount", discount)):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name} must be from 0 to 1, got {share}")
        if updates is not None and updates < 1:
            raise ConfigError(f"updates must be at least 1, got {updates}")
        if warmup is not None and context.trials is not None and warmup >= context.trials:
            raise ConfigError(
                f"warmup must be below the {context.trials} trials planned, got {warmup}; the "
                "agent would never learn"
            )
        self.reward = Reward(context, self.oracle.limits, reward, min_accuracy)
        self.walk = Walk(self.oracle, low)
        self.agent = Agent(
            agent,
            len(FEATURES),
            low,
            int(self.rng.integers(2**31)),
            hidden=hidden,
            actor_rate=actor_rate or (1e-3 if (context.trials or 400) < 400 else 1e-4),
            critic_rate=critic_rate,
            tau=tau,
            discount=discount,
            batch=batch,
            capacity=replay,
            standardise=standardise,
        )
        self._warm = warm_start is not None
        if warm_start is not None:
            self.notes = (warm_start_from(warm_start, self.agent, agent, hidden),)
            warmup = 0 if warmup is None else warmup
        self.exploration = Exploration.planned(
            context.trials, sigma or (0.2 if self._warm else 0.5), warmup, decay, least_sigma
        )
        self._updates = updates or self._planned_updates()
        self.fills_budget = fill and reward == "error"
        self._clip = clip
        self._elite = elite
        self._first = self._first_candidates() if profiles else []
        self._misses = 0
        self._finished = 0
        self._worst: float | None = None
        self._constant = True
        #: (minus the reward, number, levels) of the best trials so far.
        self._best: list[tuple[float, int, tuple[int, ...]]] = []

    def _planned_updates(self) -> int:
        """Gradient steps an episode, so that all of them make up the paper's 300 episodes'."""
        learning = max(1, (self.context.trials or 400) - self.exploration.warmup)
        return max(LEAST_UPDATES, round(len(self.walk.steps) * min(8.0, 300 / learning)))

    def _first_candidates(self) -> list[Ints]:
        """Profiles; without a use for the whole budget, the uniform candidate alone."""
        if not self.fills_budget:
            return [self._hold(self.space.units.astype(np.float64), fill="target")]
        return known_profiles(self.oracle)[: max(4, (self.context.trials or 400) // 10)]

    def _propose(self) -> Ints | None:
        # A warm agent's own episode comes first: it may be better than any profile.
        step = self.known - self._warm
        if 0 <= step < len(self._first) and not self._misses:
            return self._first[step]
        if self._best and self.rng.random() < self._elite:
            return self._around_the_best()
        return self.episode()

    @property
    def _width(self) -> float:
        """Standard deviation of the exploration; wider while nothing new comes up."""
        width = self.exploration.width(self.known) * 2.0 ** (self._misses / 4)
        return float(min(width, self.exploration.sigma))

    def episode(self) -> Ints:
        """Walk through the network once; the (n,) levels it ends with."""
        act = self.agent.actor(int(self.rng.integers(2**31)))
        levels = self.walk.reserve()
        drawn = self.agent.kind == "sac" and self.known >= self.exploration.warmup
        quiet = self._warm and not self.known
        for t, index in enumerate(self.walk.steps.tolist()):
            action = float(act(self.walk.state(t, levels))[0])
            if not drawn and not quiet:
                action = truncated_normal(action, self._width, self.walk.low, 1.0, self.rng)
            place = self.walk.clip if self._clip else self.walk.nearest
            levels[index] = place(t, levels, action)
        if self.fills_budget or not self._clip:
            wanted = self.space.choice(levels).astype(np.float64)
            levels = self._hold(wanted, "budget" if self.fills_budget else "none")
        return levels

    def _around_the_best(self) -> Ints:
        """An episode whose actions are those of one of the best, some of them with noise."""
        weights = 0.5 ** np.arange(len(self._best))
        chosen = int(self.rng.choice(len(weights), p=weights / weights.sum()))
        levels = np.array(self._best[chosen][2], dtype=np.int64)
        actions = self.walk.actions(levels)
        count = len(actions)
        share = min(1.0, float(self.rng.choice([2.0, 4.0, 8.0])) / max(count, 1))
        changed = self.rng.random(count) < share
        if count:
            changed[self.rng.integers(count)] = True
        wanted = self.space.choice(levels).astype(np.float64)
        width = max(self._width / 2, 0.08)
        for t in np.flatnonzero(changed).tolist():
            action = truncated_normal(float(actions[t]), width, self.walk.low, 1.0, self.rng)
            index = int(self.walk.steps[t])
            wanted[index] = action * self.space.units[index]
        return self._hold(wanted, "budget" if self.fills_budget else "target")

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._misses = 0

    def _refused(self, levels: Ints) -> None:
        self._misses += 1  # explore more widely until something new comes up

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            reward = self._rewarded(trial, levels)
            if reward is None or not len(self.walk.steps):
                continue
            self.agent.remember(self.walk.states(levels), self.walk.actions(levels), reward)
            self._finished += 1
            if self._finished > self.exploration.warmup:
                self._warn_of_a_constant()
                self.agent.learn(self._updates, self._seed_of(self._finished))

    def _rewarded(self, trial: Trial, levels: Ints) -> float | None:
        """The reward of a trial, and what follows from it but the agent's learning."""
        reward = self.reward(trial)
        if reward is None:
            return self._worst  # failed: as bad as the worst so far
        if self._worst is not None and reward != self._worst:
            self._constant = False
        self._worst = reward if self._worst is None else min(self._worst, reward)
        bisect.insort(self._best, (-reward, trial.number, tuple(levels.tolist())))
        del self._best[ELITES:]
        return reward

    def _seed_of(self, step: int) -> int:
        return int(np.random.default_rng((*self._entropy, 0, step)).integers(2**31))

    def _warn_of_a_constant(self) -> None:
        if self._constant and self._finished == self.exploration.warmup + 1 and self._finished > 4:
            warnings.warn(
                f"all {self._finished} trials so far have the same {self.context.objective}, so "
                "there is nothing to learn from: check what `evaluate` gives",
                stacklevel=2,
            )

    def merit(self, trial: Trial) -> float:
        """The reward."""
        reward = self.reward(trial)
        return -math.inf if reward is None else reward

    # -- checkpoints ---------------------------------------------------------------------------

    def state(self) -> SearcherState:
        """The agent with its replay buffer, and what it is an agent for."""
        return SearcherState(self.agent.arrays(), self._layout())

    def restore(self, state: SearcherState, completed: Sequence[Trial]) -> None:
        """Go on with a checkpoint's agent.

        Raises:
            SearchError: it is of another kind of agent, another network or another layout.
        """
        for name, own in self._layout().items():
            if state.about.get(name) != own:
                raise SearchError(
                    f"the agent's {name} must be {own!r}, got {state.about.get(name)!r}"
                )
        self.agent.load(state.arrays)
        self._seen.update(trial.candidate for trial in completed)
        for trial in completed:
            for _, levels in self._placed([trial.candidate]):
                if self._rewarded(trial, levels) is not None and len(self.walk.steps):
                    self._finished += 1

    def _layout(self) -> dict[str, object]:
        return {
            "searcher": "amc",
            "agent": self.agent.kind,
            "features": list(FEATURES),
            "hidden": self.agent.hidden,
            "low": self.walk.low,
            "groups": [self.space.decisions[i].group for i in self.walk.steps.tolist()],
        }
