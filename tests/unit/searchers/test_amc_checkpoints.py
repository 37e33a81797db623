"""AMC's agent outlives its process, and begins another search."""

import dataclasses

import numpy as np
import pytest

from autoprune.core.errors import ConfigError, RunError, SearchError
from autoprune.searchers.amc.agent import Agent
from autoprune.searchers.amc.searcher import AmcSearcher
from autoprune.searchers.amc.walk import FEATURES
from autoprune.searchers.checkpoint import load_state, save_state
from autoprune.study.checkpoints import Checkpoints
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context, make_trial, run_search

PROBLEM = SyntheticProblem.resnet(blocks=1)
SMALL = {"hidden": 8, "updates": 2, "warmup": 4}


def searched(trials=14, seed=0, problem=PROBLEM, **options):
    context = make_context(problem, trials=60, seed=seed)
    searcher = AmcSearcher(context, **{**SMALL, **options})
    done = []
    for number in range(trials):
        candidate = searcher.suggest(1)[0]
        done.append(make_trial(problem, context, number, candidate))
        searcher.update(done[-1:])
    return searcher, done


@pytest.mark.parametrize("kind", ["ddpg", "td3", "sac"])
def test_a_checkpoint_goes_on_as_the_agent_itself(tmp_path, kind):
    searcher, done = searched(agent=kind)
    save_state(tmp_path / "a.safetensors", searcher.state(), trials=14)
    state, more = load_state(tmp_path / "a.safetensors")
    assert more == {"trials": 14}
    other = AmcSearcher(searcher.context, agent=kind, **SMALL)
    other.restore(state, done)
    for one in (searcher, other):
        one.update([make_trial(PROBLEM, searcher.context, 99, searcher.space.largest)])
    mine, theirs = searcher.agent.arrays(), other.agent.arrays()
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert searcher.suggest(3) == other.suggest(3)


@pytest.mark.parametrize(
    ("options", "what"), [({"agent": "td3"}, "agent"), ({"hidden": 16}, "hidden")]
)
def test_a_checkpoint_of_another_layout_is_refused(options, what):
    searcher, done = searched()
    other = AmcSearcher(searcher.context, **{**SMALL, **options})
    with pytest.raises(SearchError, match=f"agent's {what} must be"):
        other.restore(searcher.state(), done)
    wider = AmcSearcher(make_context(SyntheticProblem.resnet(blocks=2)), **SMALL)
    with pytest.raises(SearchError, match="agent's groups must be"):
        wider.restore(searcher.state(), done)


def test_arrays_of_another_shape_are_refused():
    agent = Agent("ddpg", len(FEATURES), 0.2, 0, hidden=8)
    arrays = agent.arrays()
    arrays["policy/actor.mu.0.weight"] = np.zeros((8, 3), dtype=np.float32)
    with pytest.raises(SearchError, match=r"must be an array of shape \(8, 11\)"):
        agent.load(arrays)


def test_two_checkpoints_are_kept_and_the_newest_that_fits_is_taken(tmp_path):
    path = tmp_path / "searcher.safetensors"
    context = make_context(PROBLEM, trials=60)
    searcher, done = AmcSearcher(context, **SMALL), []
    kept = Checkpoints(path, "accuracy", every=5)
    for number in range(17):
        done.append(make_trial(PROBLEM, context, number, searcher.suggest(1)[0]))
        searcher.update(done[-1:])
        kept.after(searcher, done)
    for count, known in ((17, 15), (14, 10), (9, 0)):
        other = AmcSearcher(context, **SMALL)
        assert Checkpoints(path, "accuracy").restore(other, done[:count]) == known
        other.update(done[known:count])
        assert len(other.agent.arrays()["replay/rewards"]) == 3 * count
    other = AmcSearcher(context, **SMALL)
    assert Checkpoints(path, "accuracy").restore(other, done) == 15
    other.update(done[15:])
    assert other.suggest(2) == searcher.suggest(2)
    changed = [dataclasses.replace(done[0], metrics={"accuracy": 0.5}), *done[1:]]
    with pytest.raises(RunError, match="not of the trials"):
        Checkpoints(path, "accuracy").restore(AmcSearcher(context, **SMALL), changed)
    with pytest.raises(RunError, match=r"does not fit this search.*hidden"):
        Checkpoints(path, "accuracy").restore(AmcSearcher(context, hidden=9), done)


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RunError, match=r"be read|is no checkpoint"):
        load_state(path)
    path.write_bytes(b"not one")
    with pytest.raises(RunError, match="is no checkpoint"):
        load_state(path)
    with pytest.raises(ConfigError, match="is no checkpoint"):
        AmcSearcher(make_context(PROBLEM), warm_start=str(path))


def test_a_warm_agent_acts_as_before_on_another_budget_and_network(tmp_path):
    searcher, _ = searched()
    path = tmp_path / "searcher.safetensors"
    save_state(path, searcher.state())
    other = SyntheticProblem.resnet(blocks=2, seed=3)
    context = make_context(other, budget=other.budget(0.4), trials=40)
    warm = AmcSearcher(context, warm_start=str(tmp_path), hidden=8, updates=2)
    assert warm.notes == (f"warm start from {path}: its actor and critic, whole",)
    assert warm.exploration.warmup == 0
    states = np.random.default_rng(0).random((4, len(FEATURES)))
    np.testing.assert_array_equal(warm.agent.actor(0)(states), searcher.agent.actor(0)(states))
    trials = run_search(lambda c: warm, other, context)
    assert len(trials) == 40


def test_a_warm_start_takes_what_fits_and_says_so(tmp_path):
    searcher, _ = searched()
    state = searcher.state()
    fewer = [name for name in FEATURES if name != "macs"]
    column = FEATURES.index("macs")
    arrays = {
        name: np.delete(a, column, axis=1) if name.endswith(".0.weight") else a
        for name, a in state.arrays.items()
    }
    about = {**state.about, "features": fewer}
    save_state(tmp_path / "old.safetensors", dataclasses.replace(state, arrays=arrays, about=about))
    context = make_context(PROBLEM, trials=40)
    warm = AmcSearcher(context, warm_start=str(tmp_path / "old.safetensors"), hidden=8)
    assert "without the features macs" in warm.notes[0]
    mine, theirs = warm.agent.arrays(), state.arrays
    name = "policy/actor.mu.0.weight"
    np.testing.assert_array_equal(
        np.delete(mine[name], column, axis=1), np.delete(theirs[name], column, axis=1)
    )
    save_state(tmp_path / "wide.safetensors", AmcSearcher(context, hidden=12).state())
    partly = AmcSearcher(context, warm_start=str(tmp_path / "wide.safetensors"), hidden=8)
    assert "arrays fit" in partly.notes[0]
    save_state(tmp_path / "else.safetensors", dataclasses.replace(state, about={}))
    with pytest.raises(ConfigError, match="must be a checkpoint of AMC"):
        AmcSearcher(context, warm_start=str(tmp_path / "else.safetensors"))


def test_rewards_of_several_episodes_at_once_go_to_the_right_ones():
    context = make_context(PROBLEM, trials=30)
    searcher = AmcSearcher(context, hidden=8, updates=1, warmup=4)
    pending = {c: n for n, c in enumerate(searcher.suggest(6))}
    order, rewards = [], {}
    rng = np.random.default_rng(0)
    for number in range(6, 20):
        candidate = list(pending)[int(rng.integers(len(pending)))]
        trial = make_trial(PROBLEM, context, pending.pop(candidate), candidate)
        searcher.update([trial], list(pending))
        order.append(candidate)
        rewards[candidate] = trial.metrics["accuracy"] - 1
        pending[searcher.suggest(1)[0]] = number
    arrays = searcher.agent.arrays()
    steps = len(searcher.walk.steps)
    for place, candidate in enumerate(order):
        rows = slice(place * steps, (place + 1) * steps)
        np.testing.assert_allclose(
            arrays["replay/rewards"][rows].ravel(), rewards[candidate], rtol=1e-6
        )
        levels = context.space.levels(candidate)
        scaled = (searcher.walk.actions(levels) - 0.2) / 0.8 * 2 - 1
        kept = arrays["replay/actions"][rows].ravel()
        np.testing.assert_allclose(kept, np.clip(scaled, -1, 1), atol=1e-5)
        states = arrays["replay/observations"][rows]
        np.testing.assert_allclose(
            states.reshape(steps, -1), searcher.walk.states(levels), rtol=1e-5
        )


def test_a_constant_reward_is_told_and_nothing_is_lost():
    context = make_context(PROBLEM, trials=30)
    searcher = AmcSearcher(context, hidden=8, updates=1, warmup=5)

    def update(number):
        trial = make_trial(PROBLEM, context, number, searcher.suggest(1)[0])
        searcher.update([dataclasses.replace(trial, metrics={"accuracy": 0.5})])

    for number in range(5):
        update(number)
    with pytest.warns(UserWarning, match="all 6 trials so far have the same accuracy"):
        update(5)
    for number in range(6, 12):
        update(number)
    assert np.isfinite(searcher.agent.arrays()["policy/actor.mu.0.weight"]).all()


def test_scores_that_are_no_numbers_count_as_the_worst():
    searcher, done = searched(8)
    worst = min(t.metrics["accuracy"] for t in done) - 1
    trial = make_trial(PROBLEM, searcher.context, 8, searcher.suggest(1)[0])
    searcher.update([dataclasses.replace(trial, metrics={"accuracy": float("nan")})])
    arrays = searcher.agent.arrays()
    np.testing.assert_allclose(arrays["replay/rewards"][-3:].ravel(), worst, rtol=1e-6)
    assert all(np.isfinite(a).all() for n, a in arrays.items() if n != "average")
