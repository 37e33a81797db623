import importlib.metadata

import pytest

from autoprune.core import plugins
from autoprune.core.errors import PluginError

BUILTIN = {"ours": "collections:OrderedDict", "other": "collections:Counter"}


def resolve(name: str) -> object:
    return plugins.resolve(name, "autoprune.test_plugins", BUILTIN, what="thing")


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, "autoprune.test_plugins")


def test_names_modules_and_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import Counter, OrderedDict, deque

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry("theirs", "collections:deque")]
    )
    assert resolve("ours") is OrderedDict
    assert resolve("theirs") is deque
    assert resolve("collections:Counter") is Counter


def test_two_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry("ours", "collections:deque")]
    )
    with pytest.raises(PluginError, match=r"both 'collections:OrderedDict' and 'collections:deque"):
        resolve("ours")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("our", "Did you mean 'ours'"),
        ("no.such.module:Name", "can't be imported"),
        ("collections:Countr", "did you mean 'Counter'"),
        ("collections:", "package.module:Name"),
    ],
)
def test_what_is_not_there(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        resolve(name)
