"""A searcher's state as a file: safetensors, with what is no array as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError, RunError
from autoprune.core.files import write_atomically
from autoprune.searchers.base import SearcherState

#: Of the file's layout.
SCHEMA = 1
#: Where the JSON stands in the header.
_KEY = "autoprune"


def save_state(path: Path, state: SearcherState, **more: Any) -> None:
    """Write a state, whole or not at all.

    Args:
        path: of the file.
        state: what is written.
        more: JSON values that are written with it.

    Raises:
        RunError: it can't be written.
    """
    import numpy as np
    from safetensors.numpy import save

    about = json.dumps({"schema": SCHEMA, "state": dict(state.about), **more})
    arrays = {name: np.array(array, order="C") for name, array in state.arrays.items()}
    write_atomically(path, save(arrays, metadata={_KEY: about}), error=RunError)


def load_state(
    path: Path, error: type[AutopruneError] = RunError
) -> tuple[SearcherState, dict[str, Any]]:
    """A state, and what was written with it.

    Raises:
        RunError: the file can't be read, or is no checkpoint (or the `error` given).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        schema, state = about.pop("schema"), about.pop("state")
    except OSError as problem:
        raise error(f"the checkpoint {path} can't be read: {problem.strerror or problem}") from None
    except (SafetensorError, KeyError, ValueError, AttributeError) as problem:
        raise error(
            f"{path} is no checkpoint of a searcher ({type(problem).__name__}: {problem}); delete "
            "it, or give another one"
        ) from problem
    if schema != SCHEMA:
        raise error(
            f"{path} must be a checkpoint of schema {SCHEMA}, got {schema!r}; upgrade autoprune"
        )
    return SearcherState(arrays, state), about
