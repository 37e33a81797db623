"""Where data lies: `latency_models/` and `search_spaces/`, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.core.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folders(name: str) -> list[Path]:
    """The folders that may hold data of a kind, in the order they are looked through.

    `$AUTOPRUNE_DATA` (its sub-folder `name`), then what the package carries, then the checkout
    the package runs from. Only those that exist are given.

    Args:
        name: "latency_models" or "search_spaces".
    """
    own = os.environ.get("AUTOPRUNE_DATA")
    places = [Path(own) / name] if own else []
    places += [_PACKAGE / "_data" / name, _PACKAGE.parent / name]
    return [place for place in places if place.is_dir()]


def cache_folder() -> Path:
    """The user's cache folder: `$XDG_CACHE_HOME/autoprune`, by default `~/.cache/autoprune`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "autoprune"


def data_folder(name: str) -> Path:
    """The first of `data_folders`.

    Raises:
        ConfigError: there is none.
    """
    for place in data_folders(name):
        return place
    raise ConfigError(
        f"no folder {name!r} is there: neither in $AUTOPRUNE_DATA nor with the package; "
        "set AUTOPRUNE_DATA to the folder that holds it, or install autoprune again"
    )
