"""The file that is sent to remote devices: Python 3.9, numpy, and the modules it is made of."""

import ast
import shutil
import subprocess
import sys
import traceback

import pytest

from autoprune.profile import agent_import
from autoprune.profile.agent import VERSION
from autoprune.profile.agent_file import IMPORT, build, imported, modules, source
from autoprune.profile.agent_runtimes import RUNTIMES

#: Imported where they are needed, inside functions; the device must have them.
PACKAGES = {
    "onnxruntime": {"onnxruntime"},
    "openvino": {"openvino"},
    "pytorch": {"torch"},
    "tensorrt": {"torch"},
}

PARTS = sorted({IMPORT, *(name for runtime in RUNTIMES for name in modules(runtime))})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_needs_its_runtime_and_numpy_alone(runtime):
    ours = modules(runtime)
    for module in ours:
        for name in imported(ast.parse(source(module))):
            package = name.partition(".")[0]
            assert package in {"autoprune", "numpy", *PACKAGES[runtime], *sys.stdlib_module_names}
    others = {RUNTIMES[other].partition(":")[0] for other in RUNTIMES if other != runtime}
    assert ours.isdisjoint(others)


def test_what_is_imported_is_told():
    text = """
import a.b as c
from d import e
if TYPE_CHECKING:
    import f
def g():
    from h.i import j, k
"""
    assert list(imported(ast.parse(text))) == ["a.b", "d", "d.e", "h.i", "h.i.j", "h.i.k"]


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


def interpreters():
    """This Python, and one of the oldest version where there is one."""
    yield pytest.param(sys.executable, id="this")
    oldest = shutil.which("python3.9")
    works = oldest and not subprocess.run([oldest, "-V"], capture_output=True).returncode
    reason = "needs python3.9"
    yield pytest.param(oldest, id="3.9", marks=[] if works else pytest.mark.skip(reason=reason))


@pytest.mark.parametrize("python", list(interpreters()))
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_is_one_program_that_starts_without_any_package(runtime, python, tmp_path):
    file = tmp_path / "agent.py"
    file.write_bytes(build(runtime))
    done = subprocess.run(
        [python, "-I", "-S", str(file)], stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b'{"autoprune_agent": %d}\n' % VERSION
    assert build(runtime) == file.read_bytes()


def test_its_modules_come_before_those_that_are_installed_and_tell_where_they_fail(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    agent_import.install(
        {
            "tidyup.first": "from tidyup import second\n\ndef fail():\n    second.fail()\n",
            "tidyup.second": "def fail():\n    raise KeyError('here')\n",
        }
    )
    try:
        from tidyup import first

        with pytest.raises(KeyError) as caught:
            first.fail()
        told = "".join(traceback.format_exception(caught.value))
        assert 'File "tidyup/second.py", line 2, in fail\n    raise KeyError' in told
        with pytest.raises(ModuleNotFoundError):
            import tidyup.third  # noqa: F401
    finally:
        for name in ("tidyup", "tidyup.first", "tidyup.second"):
            sys.modules.pop(name, None)
