"""What the user's code raised, in one line that can be acted on."""

from __future__ import annotations

import traceback
from pathlib import Path

#: autoprune itself.
_OWN = Path(__file__).parents[1]


def describe(error: BaseException) -> str:
    """The error's type and text, and the innermost line that raised it.

    `ZeroDivisionError: division by zero (evaluate, metrics.py:12)`
    """
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _is_foreign(f.filename.replace("\\", "/"))]
    where = ""
    if own:
        frame = own[-1]
        name = frame.filename.replace("\\", "/").rsplit("/", 1)[-1]
        where = f" ({frame.name}, {name}:{frame.lineno})"
    return f"{type(error).__name__}{': ' if first else ''}{first[:300]}{where}"


def _is_foreign(file: str) -> bool:
    """Whether code is not the user's: a library's, the interpreter's, or autoprune's own."""
    return (
        "site-packages" in file
        or "/torch/" in file
        or file.startswith((f"{_OWN.as_posix()}/", "<frozen"))
    )
