"""Names of layers, as a user of the model would write them."""

from __future__ import annotations

from torch import fx


def layer_of(node: fx.Node) -> str:
    """Dotted path of the module that made a node; "" is the root module."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for entry in stack.values():
        name = entry[0] if isinstance(entry, tuple) else str(entry)
        if not name.startswith("_empty_nn_module"):
            path = name
    return path.removeprefix("L__self__").lstrip(".").split("@")[0]


def unique(name: str, taken: set[str]) -> str:
    """The name, with "#2", "#3", ... where it is taken; and take it."""
    result, count = name, 1
    while result in taken:
        count += 1
        result = f"{name}#{count}"
    taken.add(result)
    return result


def words(text: str) -> tuple[str, ...]:
    """Names separated by blanks."""
    return tuple(text.split())
