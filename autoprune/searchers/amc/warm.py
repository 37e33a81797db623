"""An agent that begins with what another search's has learned."""

from __future__ import annotations

from pathlib import Path

from autoprune.core.errors import ConfigError
from autoprune.searchers.amc.agent import Agent
from autoprune.searchers.amc.walk import FEATURES
from autoprune.searchers.checkpoint import load_state

#: A run folder's checkpoint.
NAME = "searcher.safetensors"


def warm_start_from(given: str, agent: Agent, kind: str, hidden: int) -> str:
    """Take the networks of a checkpoint as far as they fit; what was taken, in words.

    States and actions are relative to the network (all in [0, 1]), so an agent of another network
    or budget can be gone on with. Its replay buffer stays behind: its rewards were another's.

    Args:
        given: run folder or checkpoint of an AMC search.
        agent: takes them.
        kind: of the agent.
        hidden: units in its hidden layers.

    Raises:
        ConfigError: there is no checkpoint, it is not AMC's, or nothing of it fits.
    """
    path = Path(given).expanduser()
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"warm_start must be the run folder or the checkpoint of an AMC search, got {given!r}, "
            f"and there is no {path}"
        )
    state, _ = load_state(path, ConfigError)
    about = state.about
    if about.get("searcher") != "amc":
        raise ConfigError(f"warm_start must be a checkpoint of AMC, {path} is none")
    theirs = list(about["features"])
    columns = [(theirs.index(name), i) for i, name in enumerate(FEATURES) if name in theirs]
    taken, there_are = agent.transfer(state.arrays, columns)
    if not taken:
        raise ConfigError(
            f"nothing of {path} fits: it is of a {about['agent']} agent with {about['hidden']} "
            f"hidden units, this one is {kind} with {hidden}; set `agent` and `hidden` like its"
        )
    text = f"warm start from {path}: "
    if taken == there_are and theirs == list(FEATURES):
        return text + "its actor and critic, whole"
    lacking = [name for name in FEATURES if name not in theirs]
    return (
        text
        + f"{taken} of {there_are} arrays fit (it is of a {about['agent']} agent with "
        + f"{about['hidden']} hidden units"
        + (f", without the features {', '.join(lacking)}" if lacking else "")
        + "); the rest begins anew"
    )
