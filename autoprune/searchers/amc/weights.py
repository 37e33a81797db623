"""What an agent of stable-baselines3's has learned, as arrays: no pickle, unlike its own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import SearchError

Array: TypeAlias = npt.NDArray[np.generic]

#: Arrays of a replay buffer.
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def arrays_of(agent: Any) -> dict[str, Array]:
    """Everything it has learned, by name: networks, targets, optimizers, replay, baseline."""
    buffer = agent.replay_buffer
    found = {
        f"policy/{name}": tensor.detach().cpu().numpy().copy()
        for name, tensor in agent.policy.state_dict().items()
    }
    for name, optimizer in _optimizers(agent).items():
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, tensor in slots.items():
                found[f"optimizer/{name}/{index}/{slot}"] = tensor.detach().cpu().numpy().copy()
    for name in _REPLAY:
        found[f"replay/{name}"] = getattr(buffer, name)[: buffer.size()].copy()
    counters = [buffer.pos, buffer.full, agent._n_updates]
    found["counters"] = np.array(counters, dtype=np.int64)
    average = np.nan if buffer.average is None else buffer.average
    found["average"] = np.array(average, dtype=np.float64)
    if hasattr(agent, "log_ent_coef"):
        found["entropy"] = agent.log_ent_coef.detach().numpy().copy()
    return found


def load(agent: Any, arrays: Mapping[str, Array]) -> None:
    """Take what `arrays` of an agent of the same layout gave.

    Raises:
        SearchError: a name is missing, or an array has another shape.
    """
    import torch

    own = arrays_of(agent)
    for name, array in own.items():
        fixed = name.partition("/")[0] in ("policy", "counters", "average", "entropy")
        if fixed and (name not in arrays or arrays[name].shape != array.shape):
            got = arrays[name].shape if name in arrays else "nothing"
            raise SearchError(f"{name} must be an array of shape {array.shape}, got {got}")
    buffer = agent.replay_buffer
    agent.policy.load_state_dict(
        {name: _tensor(array) for name, array in _under(arrays, "policy/").items()}
    )
    for name, optimizer in _optimizers(agent).items():
        slots: dict[int, dict[str, Any]] = {}
        for key, array in _under(arrays, f"optimizer/{name}/").items():
            index, _, slot = key.partition("/")
            slots.setdefault(int(index), {})[slot] = _tensor(array)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    pos, full, updates = (int(value) for value in np.asarray(arrays["counters"]).tolist())
    for name in _REPLAY:
        stored = arrays[f"replay/{name}"]
        into = getattr(buffer, name)
        if stored.shape[1:] != into.shape[1:] or len(stored) > len(into):
            raise SearchError(
                f"replay/{name} must have at most {len(into)} rows of shape {into.shape[1:]}, "
                f"got {stored.shape}"
            )
        into[: len(stored)] = stored
    buffer.pos, buffer.full, agent._n_updates = pos, bool(full), updates
    average = float(np.asarray(arrays["average"]))
    buffer.average = None if np.isnan(average) else average
    if hasattr(agent, "log_ent_coef"):
        with torch.no_grad():
            agent.log_ent_coef.copy_(_tensor(arrays["entropy"]))


def transfer(
    agent: Any, arrays: Mapping[str, Array], columns: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Take the networks of another agent as far as they fit.

    Args:
        agent: takes them.
        arrays: what the other's `arrays_of` gave.
        columns: (its, own) places of the state's features that both have.

    Returns:
        Arrays taken, and arrays there are.
    """
    import torch

    taken = 0
    own = agent.policy.state_dict()
    features = agent.observation_space.shape[0]
    other = {n: np.asarray(a) for n, a in _under(arrays, "policy/").items()}
    with torch.no_grad():
        for name, tensor in own.items():
            array = other.get(name)
            if array is None or array.ndim != tensor.ndim or len(array) != len(tensor):
                continue
            extra = tensor.shape[-1] - features if tensor.ndim == 2 else -1
            if name.endswith(".0.weight") and extra in (0, 1):
                # The first layer reads the state's features, a critic's the action too.
                pairs = [*columns, *([(array.shape[1] - 1, features)] if extra else [])]
                theirs, mine = (list(side) for side in zip(*pairs, strict=True))
                tensor[:, mine] = _tensor(array[:, theirs])
            elif array.shape == tuple(tensor.shape):
                tensor.copy_(_tensor(array))
            else:
                continue
            taken += 1
    return taken, len(own)


def _optimizers(agent: Any) -> dict[str, Any]:
    policy = agent.policy
    found = {"actor": policy.actor.optimizer, "critic": policy.critic.optimizer}
    if hasattr(agent, "log_ent_coef"):
        found["entropy"] = agent.ent_coef_optimizer
    return found


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Arrays whose name begins so, by the rest of it."""
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def _tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.array(array))
