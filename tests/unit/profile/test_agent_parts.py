"""The modules that are sent to remote devices: Python 3.9, numpy, and each other."""

import ast
import sys

import pytest

from autoprune.profile.ssh_session import PARTS, source

#: Imported where they are needed, inside functions; the device must have the one it is asked for.
RUNTIMES = {"numpy", "onnxruntime", "openvino"}


def imported(tree):
    """Modules that are imported, but for the type checker."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_is_sent_before_it(part):
    tree = ast.parse(source(part), feature_version=(3, 9))
    before = PARTS[: PARTS.index(part)]
    # Where Linux tells a processor's name lies beside its clocks, which it asks for.
    late = {"autoprune.profile.cpu"} if part == "autoprune.profile.conditions" else set()
    for module in imported(tree):
        known = module in before or module in late or module in RUNTIMES
        assert known or module.split(".")[0] in sys.stdlib_module_names, module


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_on_python_3_9(part):
    tree = ast.parse(source(part), feature_version=(3, 9))
    postponed = {"annotations"} <= {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    }
    assert postponed or part == "autoprune.core.errors"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            # Since 3.10: zip(strict=...), and unions of types where a class is expected.
            assert not (name == "zip" and any(k.arg == "strict" for k in node.keywords))
            if name == "isinstance":
                assert not isinstance(node.args[1], ast.BinOp)
            if name == "dataclass":
                assert not {"slots", "kw_only"} & {k.arg for k in node.keywords}
