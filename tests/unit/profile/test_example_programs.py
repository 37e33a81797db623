"""The programs of examples/profilers, with a runner and an adb that only pretend."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
from few_rounds import FEW

from autoprune.core.device import Artifact
from autoprune.profile.command import CommandProfiler
from autoprune.testing.profilers import conv_artifact

EXAMPLES = Path(__file__).parents[3] / "examples" / "profilers"

#: A millisecond for each kilobyte; the model must be ONNX, and its input must be there.
RUNNER = """#!/bin/sh
set -eu
if [ "$1" = --version ]; then echo 1.5; exit; fi
grep -q conv0.weight "$1" || { echo "no network" >&2; exit 3; }
[ -s "$4" ] || { echo "no input" >&2; exit 4; }
size=$(wc -c <"$1")
i=0
while [ "$i" -lt "$3" ]; do echo "$((size / 1000)).$((size % 1000 / 100))"; i=$((i + 1)); done
"""

#: A device is a folder; adb ends lines as devices of old do.
ADB = """#!/bin/sh
set -eu
echo "$1" >>"$ADB_LOG"
case $1 in
push) cp "$2" "$3"; echo pushed ;;
shell)
    shift
    case "$*" in
    getprop*) printf 'Pixel 42\\r\\n' ;;
    *) answer=$(sh -c "$*") || exit; [ -z "$answer" ] || echo "$answer" | sed 's/$/\\r/' ;;
    esac ;;
esac
"""


@pytest.fixture
def runner(tmp_path):
    return executable(tmp_path / "runner", RUNNER)


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def profiler_of(script, runner):
    if shutil.which("sh") is None:
        pytest.skip("needs a POSIX shell")
    return CommandProfiler(shlex.join([str(EXAMPLES / script), str(runner)]), timeout_s=300)


def check(profiler, runner):
    small, large = conv_artifact("small", 8), conv_artifact('say "runs": 9', 24)
    bad = Artifact("bad", b"rubbish", small.inputs)
    unfed = Artifact("unfed", small.onnx, {})
    found = profiler.measure([small, large, bad, unfed], FEW)
    assert [m.ok for m in found] == [True, True, False, False]
    for artifact, measurement in zip([small, large], found, strict=False):
        assert measurement.latency_ms == pytest.approx(len(artifact.onnx) // 100 / 10)
    assert "no network" in found[2].error
    assert (profiler.device.runtime, profiler.device.runtime_version) == (runner.name, "1.5")


def test_the_shell_example(runner):
    check(profiler_of("measure.sh", runner), runner)


def test_the_adb_example_pushes_once(runner, tmp_path, monkeypatch):
    executable(tmp_path / "adb", ADB)
    log = tmp_path / "log"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ADB_LOG", str(log))
    monkeypatch.setenv("AUTOPRUNE_ADB_FOLDER", str(tmp_path / "device"))
    profiler = profiler_of("adb.sh", runner)
    check(profiler, runner)
    assert profiler.device.name == "Pixel 42"
    # Three networks, and the inputs that the two good ones are fed.
    assert log.read_text().split().count("push") == 5
    assert not list((tmp_path / "device").glob("*.part"))
