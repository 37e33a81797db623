"""stable-baselines3's agents, driven directly: their policies, `replay_buffer.add`, `train`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.searchers.amc import weights
from autoprune.searchers.amc.weights import Array

AGENTS = ("ddpg", "td3", "sac")


class Agent:
    """An off-policy agent over AMC's states and actions.

    The paper's settings by default: two hidden layers of 300 units, learning rates of 1e-4
    (actor) and 1e-3 (critic), soft updates with 0.01, batches of 64, a replay buffer of 2000
    transitions, no discount, and a moving average of the rewards as their baseline.

    Everything random is drawn from the seed given with the call. The global random states of
    Python, numpy and torch are the caller's again afterwards, and so is torch's thread count:
    networks this small only lose by several threads.

    Args:
        kind: "ddpg" (the paper's), "td3" or "sac".
        features: in a state.
        low: the least action; the greatest is 1.
        seed: of the weights.
        hidden: units in each of two hidden layers.
        actor_rate: learning rate of the actor.
        critic_rate: learning rate of the critic.
        tau: soft update of the targets.
        batch: transitions in a batch.
        capacity: of the replay buffer, in transitions.
        discount: of what later steps are worth; 1 is the paper's.
        baseline: weight of a new batch's mean reward in the moving average.
        standardise: whether rewards are divided by their standard deviation in the buffer, so
            that accuracies that hardly differ can be told apart.
    """

    def __init__(
        self,
        kind: str,
        features: int,
        low: float,
        seed: int,
        *,
        hidden: int = 300,
        actor_rate: float = 1e-4,
        critic_rate: float = 1e-3,
        tau: float = 0.01,
        batch: int = 64,
        capacity: int = 2000,
        discount: float = 1.0,
        baseline: float = 0.5,
        standardise: bool = True,
    ) -> None:
        if kind not in AGENTS:
            raise ConfigError(f"agent must be one of {', '.join(AGENTS)}, got {kind!r}")
        self.kind = kind
        self.hidden = hidden
        self.batch = batch
        with _randomness(seed):
            self._agent = _build(
                kind,
                features,
                low,
                seed=seed,
                hidden=hidden,
                rates=(actor_rate, critic_rate),
                tau=tau,
                batch=batch,
                capacity=capacity,
                discount=discount,
                baseline=baseline,
                standardise=standardise,
            )

    def actor(self, seed: int) -> Callable[[Floats], Floats]:
        """A function of (M, features) states that gives (M,) actions.

        SAC's are drawn, each from the seed and how often the function was called; the others' are
        the means.
        """
        import torch

        actor, space = self._agent.policy.actor, self._agent.action_space
        low, high = float(space.low[0]), float(space.high[0])
        drawn = self.kind == "sac"
        calls = itertools.count()

        def act(states: Floats) -> Floats:
            with torch.no_grad():
                observed = torch.as_tensor(np.atleast_2d(states), dtype=torch.float32)
                if drawn:
                    with _randomness(seed + next(calls)):
                        scaled = actor(observed, deterministic=False)
                else:
                    scaled = actor(observed)
            actions: Floats = low + (scaled[:, 0].numpy().astype(np.float64) + 1) / 2 * (high - low)
            return actions

        self._agent.policy.set_training_mode(False)
        return act

    def remember(self, states: Floats, actions: Floats, reward: float) -> None:
        """Store an episode: (T, 11) states, (T,) actions, its reward given to every step."""
        space = self._agent.action_space
        for t in range(len(states)):
            last = t == len(states) - 1
            action = np.clip(np.float32(actions[t]), space.low, space.high)
            self._agent.replay_buffer.add(
                states[t][None].astype(np.float32),
                states[t if last else t + 1][None].astype(np.float32),
                self._agent.policy.scale_action(action)[None],
                np.array([reward], dtype=np.float32),
                np.array([last]),
                [{}],
            )

    def learn(self, steps: int, seed: int) -> None:
        """Take gradient steps on batches of the replay buffer."""
        if self._agent.replay_buffer.size() == 0:
            return
        with _randomness(seed):
            self._agent.train(gradient_steps=steps, batch_size=self.batch)

    def arrays(self) -> dict[str, Array]:
        """Everything it has learned, by name: networks, targets, optimizers, replay, baseline."""
        return weights.arrays_of(self._agent)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take what `arrays` of an agent of the same layout gave.

        Raises:
            SearchError: a name is missing, or an array has another shape.
        """
        weights.load(self._agent, arrays)

    def transfer(
        self, arrays: Mapping[str, Array], columns: Sequence[tuple[int, int]]
    ) -> tuple[int, int]:
        """Take the networks of another agent as far as they fit; see `weights.transfer`."""
        return weights.transfer(self._agent, arrays, columns)


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Random numbers of a seed and one thread within; as the caller had them afterwards."""
    import torch

    outer = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(outer[0])
        np.random.set_state(outer[1])  # noqa: NPY002
        torch.set_rng_state(outer[2])
        torch.set_num_threads(threads)


def _build(
    kind: str,
    features: int,
    low: float,
    *,
    seed: int,
    hidden: int,
    rates: tuple[float, float],
    tau: float,
    batch: int,
    capacity: int,
    discount: float,
    baseline: float,
    standardise: bool,
) -> Any:
    """A stable-baselines3 agent with two learning rates and a reward baseline."""
    import gymnasium
    import stable_baselines3 as sb3
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.logger import Logger

    class Spaces(gymnasium.Env[Any, Any]):
        """What stable-baselines3 asks an environment for when it is not run by it."""

        observation_space = gymnasium.spaces.Box(0.0, 1.0, (features,), np.float32)
        action_space = gymnasium.spaces.Box(low, 1.0, (1,), np.float32)

    class Baselined(ReplayBuffer):
        """Rewards less the moving average of the batches' means (He et al. 2018, eq. 4)."""

        average: float | None = None

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            samples = super().sample(*args, **kwargs)
            mean = float(samples.rewards.mean())
            self.average = (
                mean if self.average is None else self.average + baseline * (mean - self.average)
            )
            scale = float(self.rewards[: self.size()].std()) if standardise else 1.0
            return samples._replace(rewards=(samples.rewards - self.average) / max(scale, 1e-8))

    base: Any = {"ddpg": sb3.DDPG, "td3": sb3.TD3, "sac": sb3.SAC}[kind]

    class TwoRates(base):  # type: ignore[misc]
        """The actor and the critic learn at rates of their own."""

        def _update_learning_rate(self, optimizers: Any) -> None:
            for optimizer, rate in (
                (self.actor.optimizer, rates[0]),
                (self.critic.optimizer, rates[1]),
            ):
                for group in optimizer.param_groups:
                    group["lr"] = rate

    agent = TwoRates(
        "MlpPolicy",
        Spaces(),
        learning_rate=rates[1],
        buffer_size=capacity,
        batch_size=batch,
        tau=tau,
        gamma=discount,
        replay_buffer_class=Baselined,
        policy_kwargs={"net_arch": [hidden, hidden]},
        seed=seed,
        device="cpu",
    )
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent
