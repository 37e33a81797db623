"""What the user's code raised, in one line that can be acted on."""

from __future__ import annotations

import traceback


def describe(error: BaseException) -> str:
    """The error's type and text, and the innermost line that raised it.

    `ZeroDivisionError: division by zero (evaluate, metrics.py:12)`
    """
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and "/torch/" not in f.filename]
    where = ""
    if own or frames:
        frame = (own or frames)[-1]
        name = frame.filename.replace("\\", "/").rsplit("/", 1)[-1]
        where = f" ({frame.name}, {name}:{frame.lineno})"
    return f"{type(error).__name__}{': ' if first else ''}{first[:300]}{where}"
