"""torch's table of ONNX functions, built once instead of for every export."""

from __future__ import annotations

import contextlib
import copy
import importlib
import threading
from collections.abc import Iterator
from typing import Any

_MODULE, _CLASS, _MAKE = (
    "torch.onnx._internal.exporter._registration",
    "ONNXRegistry",
    "from_torchlib",
)
_BUILT: dict[Any, Any] = {}
_LOCK = threading.RLock()


@contextlib.contextmanager
def shared_registry() -> Iterator[None]:
    """While the block lasts, `torch.onnx.export` gets copies of a table that is built once.

    Building it takes 2 to 3 s, half of the export of a small network, and it is the same each
    time. torch has no public way to hand it in; where a release of torch has it elsewhere or
    makes it otherwise, it is built each time as before.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        try:
            registry = getattr(importlib.import_module(_MODULE), _CLASS)
            made = registry.__dict__[_MAKE]
        except (ImportError, AttributeError, KeyError):
            made = None
        if isinstance(made, classmethod):
            build = getattr(registry, _MAKE)

            def shared(*args: Any, **kwargs: Any) -> Any:
                key = (args, tuple(sorted(kwargs.items())))
                if key not in _BUILT:
                    _BUILT[key] = build(*args, **kwargs)
                return _copied(_BUILT[key])

            setattr(registry, _MAKE, staticmethod(shared))
            stack.callback(setattr, registry, _MAKE, made)
        yield


def _copied(registry: Any) -> Any:
    """A registry of its own, so that what one export registers does not reach another."""
    new = copy.copy(registry)
    functions = getattr(registry, "functions", None)
    if isinstance(functions, dict):
        new.functions = {name: list(found) for name, found in functions.items()}
    return new
