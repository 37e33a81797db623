"""The wheel carries the data folders, and an installed autoprune reads them back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd="/", env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


def test_the_data_folders_are_read_back_from_the_wheel(installed: Path) -> None:
    code = (
        "import autoprune; from autoprune.core.data import data_folder; print(autoprune.__file__);"
        "print(data_folder('latency_models')); print(data_folder('search_spaces'))"
    )
    lines = run(sys.executable, "-c", code, PYTHONPATH=str(installed), AUTOPRUNE_DATA="").split()
    assert all(Path(line).is_relative_to(installed) for line in lines)
    for name, line in zip(("latency_models", "search_spaces"), lines[1:], strict=True):
        tracked = {p.name for p in (ROOT / name).rglob("*") if p.is_file()}
        assert tracked == {p.name for p in Path(line).rglob("*") if p.is_file()}


def test_the_command_is_there(installed: Path) -> None:
    out = run(sys.executable, "-m", "autoprune", "--help", PYTHONPATH=str(installed))
    assert "search" in out
