import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from few_rounds import FEW

from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ProfilerError
from autoprune.profile.command import CommandProfiler
from autoprune.profile.registry import devices, make_profiler
from autoprune.testing.profilers import check_profiler, conv_artifact

PROGRAM = Path(__file__).with_name("measuring_program.py")

SH = """#!/bin/sh
read -r request
case "$request" in
*'"request": "device"'*)
    echo '{"name": "sh", "runtime": "none", "runtime_version": "1", "provider": "x"}' ;;
*)
    runs=${request##*'"runs": '}
    runs=${runs%%\\}*}
    printf '{"latencies_ms": [2.5'
    while [ "$((runs -= 1))" -gt 0 ]; do printf ', 2.5'; done
    echo ']}' ;;
esac
"""


def program(trouble=""):
    return shlex.join([sys.executable, str(PROGRAM), *([trouble] if trouble else [])])


def test_figures_and_energy_are_the_programs():
    small, large = conv_artifact("small", 8), conv_artifact("large", 64, layers=6)
    profiler = CommandProfiler(program())
    assert profiler.device == DeviceSpec("board", "formula", "1", threads=0)
    assert profiler.device.details == {"driver": "7"}
    found = profiler.measure([small, large], FEW)
    for artifact, measurement in zip([small, large], found, strict=True):
        assert measurement.latency_ms == pytest.approx(len(artifact.onnx) / 1e3)
        assert measurement.energy_mj == pytest.approx(2 * len(artifact.onnx) / 1e3)
    assert found[1].ratio == pytest.approx(found[1].latency_ms / found[0].latency_ms)


def test_keeps_the_contract():
    check_profiler(CommandProfiler(program()))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("rubbish", "one JSON object, got '42 ms"),
        ("nothing", "one JSON object, got nothing"),
        ("list", "one JSON object"),
        ("count", "a list of 1 numbers; got 2 of them"),
        ("negative", "must be positive, finite numbers; got -1.0"),
        ("nan", "must be positive, finite numbers; got nan"),
        ("text", "must be positive, finite numbers; got '1'"),
        ("true", "must be positive, finite numbers; got True"),
        ("energy", "energy_mj .* got -3"),
        ("slowed", r"must tell slowed, 1 numbers of 0 or more; got '\[-1\]'"),
        ("status", "ended with status 1: the board is on fire"),
        ("signal", "got signal 9"),
        ("endless", "more than 16 MiB"),
    ],
)
def test_a_wrong_reply_is_an_error_of_that_network(trouble, said):
    artifacts = [conv_artifact("good", 8), conv_artifact("bad", 8)]
    good, bad = CommandProfiler(program(trouble)).measure(artifacts, FEW)
    assert good.ok
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(bad.error)


@pytest.mark.parametrize("trouble", ["hang", "spawn"])
def test_a_program_that_hangs_is_ended_with_all_it_started(trouble, monkeypatch):
    artifacts = [conv_artifact("good", 8), conv_artifact("bad", 8)]
    profiler = CommandProfiler(program(trouble), timeout_s=300)
    real = profiler._ask

    def ask(request):
        profiler._timeout_s = 2.0 if request["key"] == "bad" else 300.0
        return real(request)

    monkeypatch.setattr(profiler, "_ask", ask)
    good, bad = profiler.measure(artifacts, FEW)
    assert good.ok
    assert "longer than timeout_s (2 s)" in bad.error
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        assert f"{PROGRAM} {trouble}" not in listed.stdout


def test_a_shell_script_is_enough(tmp_path):
    script = tmp_path / "measure.sh"
    script.write_text(SH)
    script.chmod(0o755)
    profiler = make_profiler(f"command?program={script}&timeout_s=300")
    assert profiler.device.provider == "x"
    dense, other = profiler.measure([conv_artifact("a", 8), conv_artifact("b", 8)], FEW)
    assert (dense.latency_ms, other.ratio) == (pytest.approx(2.5), pytest.approx(1))
    assert dense.energy_mj is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"command\?program=./measure.sh"),
        ({"program": "'a"}, "can't be split"),
        ({"program": "x", "timeout_s": 0}, "above 0"),
        ({"program": "no-such-program-here"}, "can't be started: No such file"),
        ({"program": "cat"}, "describes its device by .* got also autoprune, request"),
        ({"program": "true"}, "got nothing"),
        ({"program": 'echo \'{"name": "x"}\''}, "runtime of the program 'echo' must be text"),
    ],
)
def test_wrong_settings_and_programs_are_refused(options, said):
    with pytest.raises(ProfilerError, match=said):
        make_profiler("command", **options).device  # noqa: B018


def test_a_program_that_is_gone_fails_every_measurement():
    results = CommandProfiler("no-such-program-here").measure([conv_artifact("a", 8)] * 2, FEW)
    assert all("can't be started" in m.error for m in results)


def test_devices_says_what_command_and_ssh_need():
    rows = {row.name: row for row in devices()}
    assert "program=./measure.sh" in rows["command"].missing
    assert "ssh" in rows["ssh"].missing
    assert not rows["ssh"].available
