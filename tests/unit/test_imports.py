import subprocess
import sys

import autoprune

HEAVY = (
    "torch optuna stable_baselines3 gymnasium onnxruntime ray tensorrt scipy matplotlib typer zeus"
)


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running code."""
    script = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r}.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return set(done.stdout.split())


def test_importing_autoprune_loads_nothing_heavy() -> None:
    assert loaded_by("import autoprune") == set()


def test_measuring_on_a_bare_device_needs_no_torch() -> None:
    assert loaded_by("import autoprune.profile.onnxruntime, autoprune.profile.registry") == set()


def test_a_table_is_read_without_torch_or_a_runtime() -> None:
    assert loaded_by("import autoprune.cost.table") <= {"scipy"}


def test_using_the_graph_loads_torch_but_no_searcher_or_runtime() -> None:
    heavy = loaded_by("import autoprune; autoprune.trace, autoprune.prune, autoprune.search")
    assert "torch" in heavy
    assert heavy.isdisjoint({"optuna", "stable_baselines3", "onnxruntime", "ray", "matplotlib"})


def test_every_public_name_is_there() -> None:
    assert set(autoprune.__all__) <= set(dir(autoprune))
    for name in autoprune.__all__:
        assert getattr(autoprune, name) is not None


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    import autoprune.study  # loads every part below it

    assert callable(autoprune.search)
    assert callable(autoprune.prune)
