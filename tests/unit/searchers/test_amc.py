import dataclasses
import random

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from autoprune.core.budget import Budget
from autoprune.core.errors import ConfigError, SearchError
from autoprune.cost.analytic import AnalyticCost
from autoprune.searchers.amc.agent import Agent
from autoprune.searchers.amc.env import AmcEnv
from autoprune.searchers.amc.noise import Exploration, truncated_normal
from autoprune.searchers.amc.reward import Reward
from autoprune.searchers.amc.searcher import AmcSearcher
from autoprune.searchers.amc.walk import FEATURES, Walk
from autoprune.searchers.registry import make_searcher
from autoprune.space.projection import Oracle
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import ShapeCost, StaircaseCost, SyntheticProblem
from autoprune.testing.searchers import make_context, make_trial, run_search

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)


def walk(context, low=0.2):
    return Walk(Oracle(context.space, context.budget, context.cost_model), low)


def latency_context(fraction=0.5):
    dense = StaircaseCost().predict(PROBLEM.kernels.workloads([PROBLEM.kernels.dense]))[0]
    budget = Budget(latency_ms=f"{fraction}x").absolute(dense)
    return make_context(PROBLEM, budget=budget, cost_model=StaircaseCost())


def test_states_are_those_of_the_paper():
    context = make_context(PROBLEM)
    space = context.space
    episode = walk(context)
    dense = episode.states(space.counts - 1)
    assert dense.shape == (len(space), len(FEATURES))
    assert dense.min() >= 0
    assert dense.max() <= 1
    column = {name: dense[:, i] for i, name in enumerate(FEATURES)}
    np.testing.assert_allclose(column["t"], np.linspace(0, 1, len(space)))
    units = PROBLEM.kernels.units
    np.testing.assert_allclose(column["n"], units / units.max())
    assert column["h"][0] == 1  # the stem sees the whole image
    np.testing.assert_allclose(column["k"], 1)
    assert (column["reduced"] == 0).all()  # nothing is pruned
    assert (np.diff(column["rest"]) <= 0).all()  # less and less is to come
    assert column["rest"][-1] == 0
    assert (column["action"] == 1).all()


def test_states_follow_the_actions():
    context = make_context(PROBLEM)
    episode = walk(context)
    levels = context.space.levels(context.space.smallest)
    states = episode.states(levels)
    reduced = states[:, FEATURES.index("reduced")]
    assert reduced[0] == 0
    assert (np.diff(reduced) > 0).all()
    np.testing.assert_allclose(states[1:, -1], episode.actions(levels)[:-1])
    for t in (0, 3, len(episode.steps) - 1):  # one at a time is the same as all at once
        np.testing.assert_allclose(episode.state(t, levels), states[t])


@pytest.mark.parametrize("action", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("context", [make_context(PROBLEM), latency_context()])
def test_clipping_holds_the_budget_and_no_more(context, action):
    episode = walk(context)
    levels = episode.reserve()
    for t, index in enumerate(episode.steps):
        level = episode.clip(t, levels, action)
        wanted = action * context.space.units[index]
        choices = np.array(context.space.decisions[index].choices)
        levels[index] = level
        assert episode.oracle.holds(levels[None])[0]
        nearer = np.flatnonzero(np.abs(choices - wanted) < abs(choices[level] - wanted))
        for other in nearer:
            row = levels.copy()
            row[index] = other
            assert not episode.oracle.holds(row[None])[0]


def memory_context(metrics):
    cost = AnalyticCost()
    dense = cost.predict(PROBLEM.kernels.workloads([PROBLEM.kernels.dense]))[0]
    budget = Budget(**dict.fromkeys(metrics, "0.6x")).absolute(dense)
    return make_context(PROBLEM, budget=budget, cost_model=cost)


@pytest.mark.parametrize(
    "metrics", [("params",), ("memory_bytes",), ("macs", "params", "memory_bytes")]
)
def test_clipping_holds_every_kind_of_budget(metrics):
    context = memory_context(metrics)
    searcher = AmcSearcher(context, hidden=16, fill=False, profiles=False, elite=0.0)
    for _ in range(3):
        levels = searcher.episode()
        assert searcher.oracle.holds(levels[None])[0]


def test_reserve_gives_way_to_a_tight_budget():
    context = make_context(PROBLEM, budget=PROBLEM.budget(0.03))
    episode = walk(context, low=0.5)
    assert episode.oracle.holds(episode.reserve()[None])[0]


def test_exploration_of_the_paper_and_of_short_searches():
    paper = Exploration.planned(None)
    assert (paper.warmup, paper.width(0), paper.width(99)) == (100, 0.5, 0.5)
    assert paper.width(101) == pytest.approx(0.5 * 0.95)
    short = Exploration.planned(40)
    assert short.warmup == 10
    assert short.width(10) == 0.5
    assert short.width(30) == pytest.approx(short.least)
    with pytest.raises(ConfigError, match="sigma must be above 0"):
        Exploration(sigma=0.0)
    with pytest.raises(ConfigError, match="decay"):
        Exploration(decay=1.5)


def test_truncated_normal():
    rng = np.random.default_rng(0)
    drawn = [truncated_normal(0.3, 0.5, 0.2, 1.0, rng) for _ in range(4000)]
    assert min(drawn) >= 0.2
    assert max(drawn) <= 1.0
    from scipy.stats import kstest, truncnorm

    assert kstest(drawn, truncnorm(-0.2, 1.4, 0.3, 0.5).cdf).pvalue > 0.01
    assert truncated_normal(5.0, 1e-3, 0.2, 1.0, rng) == pytest.approx(1.0, abs=0.01)


def test_the_reward_reaches_every_step():
    agent = Agent("ddpg", len(FEATURES), 0.2, seed=0, hidden=16)
    states = np.random.default_rng(0).random((5, len(FEATURES)))
    agent.remember(states, np.full(5, 0.6), -0.1)
    buffer = agent._agent.replay_buffer
    assert buffer.size() == 5
    np.testing.assert_allclose(buffer.rewards[:5, 0], -0.1)
    np.testing.assert_allclose(buffer.actions[:5, 0], 0.0, atol=1e-6)  # the middle of [0.2, 1]
    np.testing.assert_allclose(buffer.dones[:5, 0], [0, 0, 0, 0, 1])
    np.testing.assert_allclose(buffer.next_observations[:4, 0], states[1:], rtol=1e-6)


def test_agent_learns_which_action_is_good():
    agent = Agent("ddpg", 2, 0.2, seed=0, hidden=32, actor_rate=1e-3)
    rng = np.random.default_rng(0)
    state = np.array([[0.5, 0.5]])
    for _ in range(200):
        action = rng.uniform(0.2, 1.0)
        agent.remember(state, np.array([action]), -((action - 0.8) ** 2))
    agent.learn(600, seed=1)
    assert agent.actor(0)(state[0])[0] == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("kind", ["ddpg", "td3", "sac"])
def test_callers_random_states_are_left_alone(kind):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    context = make_context(PROBLEM, trials=6)
    run_search(
        lambda c: make_searcher("amc", c, agent=kind, hidden=16, warmup=2, updates=4),
        PROBLEM,
        context,
    )
    after = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    assert before == after


@pytest.mark.parametrize("kind", ["td3", "sac"])
def test_other_agents_are_reproducible(kind):
    context = make_context(PROBLEM, trials=10, seed=5)
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)  # what the caller does with torch does not matter
        runs.append(
            run_search(
                lambda c: make_searcher("amc", c, agent=kind, hidden=16, warmup=3, updates=4),
                PROBLEM,
                context,
            )
        )
    assert [t.candidate for t in runs[0]] == [t.candidate for t in runs[1]]


def test_rewards():
    context = make_context(PROBLEM)
    limits = context.budget.limits
    error = Reward(context, limits, "error", None)
    trial = make_trial(PROBLEM, context, 0, context.space.dense)
    assert error(trial) == pytest.approx(trial.metrics["accuracy"] - 1)
    cheap = make_trial(PROBLEM, context, 1, context.space.smallest)
    both = Reward(context, limits, "error_log_cost", None)
    assert both(trial) == pytest.approx(error(trial) * np.log(1e6))
    same = dataclasses.replace(cheap, metrics=trial.metrics)
    assert both(same) > both(trial)  # as accurate and cheaper
    for broken in ({"metrics": {}, "error": "no"}, {"metrics": {"accuracy": float("nan")}}):
        assert both(dataclasses.replace(cheap, **broken)) is None


def test_a_guaranteed_accuracy_weighs_more_than_cost():
    context = dataclasses.replace(make_context(PROBLEM), dense_metrics={"accuracy": 0.93})
    limits = context.budget.limits
    dense = make_trial(PROBLEM, context, 0, context.space.dense)
    cheap = make_trial(PROBLEM, context, 1, context.space.smallest)
    close = dataclasses.replace(cheap, metrics={"accuracy": 0.90})
    plain = Reward(context, limits, "error_log_cost", None)
    for least in ("dense", 0.93):
        guaranteed = Reward(context, limits, "error_log_cost", least)
        assert guaranteed.least == 0.93
        assert guaranteed(close) < guaranteed(dense) < 0
    assert plain(close) - plain(dense) > guaranteed(close) - guaranteed(dense)
    enough = dataclasses.replace(cheap, metrics={"accuracy": 0.93})
    assert guaranteed(enough) == plain(enough)


def test_cost_is_that_of_every_bound():
    dense = ShapeCost().predict(PROBLEM.kernels.workloads([PROBLEM.kernels.dense]))[0]
    budget = Budget(macs="0.9x", params="0.9x").absolute(dense)
    context = make_context(PROBLEM, budget=budget)
    trial = make_trial(PROBLEM, context, 0, context.space.smallest)
    one, other = (
        Reward(context, {m: 1.0}, "error_log_cost", None)(trial) for m in ("macs", "params")
    )
    both = Reward(context, budget.limits, "error_log_cost", None)(trial)
    assert both == pytest.approx((one + other) / 2)


def test_least_cost_at_no_loss_is_searched_without_clipping():
    dense = ShapeCost().predict(PROBLEM.kernels.workloads([PROBLEM.kernels.dense]))[0]
    context = dataclasses.replace(
        make_context(PROBLEM, budget=Budget(macs="1x").absolute(dense), trials=40),
        dense_metrics={"accuracy": 0.93},
    )
    trials = run_search(
        lambda c: AmcSearcher(
            c, reward="error_log_cost", min_accuracy="dense", hidden=16, updates=4
        ),
        PROBLEM,
        context,
    )
    assert trials[0].candidate == context.space.largest
    costs = [trial.predicted.macs / dense.macs for trial in trials]
    assert min(costs) < 0.6
    rewards = [Reward(context, context.budget.limits, "error_log_cost", 0.93)(t) for t in trials]
    assert np.mean(rewards[-10:]) > np.mean(rewards[1:11])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("accuracy", None), "reward must be"),
        (("error", 0.9), "needs reward 'error_log_cost'"),
        (("error_log_cost", "best"), "a number or 'dense'"),
        (("error_log_cost", "dense"), "not known here"),
        (("error_log_cost", float("inf")), "must be finite"),
    ],
)
def test_wrong_rewards(arguments, message):
    context = make_context(PROBLEM)
    with pytest.raises(ConfigError, match=message):
        Reward(context, context.budget.limits, *arguments)


def test_gradient_steps_make_up_for_short_searches():
    steps = len(make_context(PROBLEM).space)
    assert AmcSearcher(make_context(PROBLEM), hidden=16)._updates == steps
    assert AmcSearcher(make_context(PROBLEM, trials=400), hidden=16)._updates == steps
    assert AmcSearcher(make_context(PROBLEM, trials=100), hidden=16)._updates == 4 * steps
    assert AmcSearcher(make_context(PROBLEM, trials=10_000), hidden=16)._updates == 4
    assert AmcSearcher(make_context(PROBLEM, trials=100), hidden=16, updates=2)._updates == 2


@pytest.mark.parametrize("fill", [True, False])
def test_unclipped_episodes_hold_the_budget_too(fill):
    searcher = AmcSearcher(make_context(PROBLEM, trials=8), clip=False, fill=fill, hidden=16)
    for _ in range(4):
        assert searcher.oracle.holds(searcher.episode()[None])[0]


def test_clipped_episodes_need_no_projection():
    context = make_context(PROBLEM, trials=8)
    searcher = AmcSearcher(context, fill=False, hidden=16)
    for _ in range(5):
        levels = searcher.episode()
        assert searcher.oracle.holds(levels[None])[0]
        assert (searcher.walk.actions(levels) >= 0.2 - 1e-9).all()


@pytest.mark.parametrize(
    "options",
    [
        {"agent": "ppo"},
        {"reward": "accuracy"},
        {"low": 0.0},
        {"updates": 0},
        {"sigma": -1.0},
        {"elite": 1.5},
        {"discount": -0.1},
        {"warmup": 8},
        {"warm_start": "nowhere"},
    ],
)
def test_wrong_options(options):
    with pytest.raises(ConfigError, match="must be"):
        AmcSearcher(make_context(PROBLEM, trials=8), **options)


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized.*")
@pytest.mark.filterwarnings("ignore:.*a Box action space.*")
def test_environment_passes_both_checkers():
    from stable_baselines3.common.env_checker import check_env as check_sb3

    context = make_context(PROBLEM)
    env = AmcEnv(context, lambda c: PROBLEM.evaluate(c)["accuracy"])
    check_env(env, skip_render_check=True)
    check_sb3(env)
    env.reset(seed=0)
    total, done, steps = 0.0, False, 0
    while not done:
        _, reward, done, _, info = env.step(np.array([1.0], dtype=np.float32))
        total += reward
        steps += 1
    assert steps == len(context.space)
    assert total == pytest.approx(PROBLEM.evaluate(info["candidate"])["accuracy"])
    cost = ShapeCost().predict(PROBLEM.kernels.workloads([info["candidate"]]))[0]
    assert max(context.budget.violations(cost).values()) <= 0
    with pytest.raises(SearchError, match="must be reset"):
        env.step(np.array([1.0], dtype=np.float32))


def test_a_space_without_a_choice():
    space = SearchSpace.from_network(PROBLEM, overrides={"*": "freeze"})
    context = make_context(PROBLEM, space=space, budget=PROBLEM.budget(1.0))
    searcher = AmcSearcher(context, hidden=16)
    assert searcher.suggest(2) == [space.dense]
    searcher.update([make_trial(PROBLEM, context, 0, space.dense)])
    assert searcher.suggest(1) == []
