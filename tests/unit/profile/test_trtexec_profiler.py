"""The trtexec profiler on a program that reads and writes what trtexec does (trtexec_program)."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from autoprune.core.device import Artifact, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import trtexec, trtexec_files, trtexec_place
from autoprune.profile.registry import devices, make_profiler
from autoprune.profile.trtexec import TrtexecProfiler
from autoprune.testing.profilers import check_profiler, conv_artifact

FEW = MeasuringProtocol(warmup=1, runs=2, min_rounds=2, max_rounds=2, width=0.5, kernels=True)

SHORT = replace(FEW, kernels=False)


def script(path, *lines):
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program's path; its log and its cache lie in `tmp_path`."""
    monkeypatch.setenv("TRTEXEC_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = Path(__file__).parent / "trtexec_program.py"
    return script(
        tmp_path / "trtexec",
        'case "$*" in *--onnx*) how="";; *) how="-I -S";; esac',
        f'exec {sys.executable} $how {source} "$@"',
    )


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_keeps_the_contract(program):
    check_profiler(TrtexecProfiler(program=program))


def test_networks_are_built_run_and_profiled(program, tmp_path):
    profiler = make_profiler(f"trtexec?program={program}")
    artifacts = [conv_artifact("dense", 16, 3), conv_artifact("pruned", 8, 3)]
    dense, pruned = profiler.measure(artifacts, FEW)
    assert dense.ok
    assert dense.ratio == 1
    assert pruned.ratio == pytest.approx(0.04368 / 0.0804, rel=0.01)  # by the counts of weights
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    assert [(k.op, k.layers) for k in pruned.kernels] == [
        ("Conv", (f"conv{i}", f"relu{i}")) for i in range(3)
    ]
    build = next(c for c in calls(tmp_path) if any(o.startswith("--saveEngine") for o in c))
    assert {"--noTF32", "--skipInference", "--profilingVerbosity=detailed"} <= set(build)
    run = next(c for c in calls(tmp_path) if any(o.startswith("--exportTimes") for o in c))
    assert {"--useCudaGraph", "--duration=0"} <= set(run)
    (kept,) = (tmp_path / "cache" / "autoprune" / "tensorrt").iterdir()
    assert kept.name == "orin-trtexec-10.13.3.cache"


def test_the_device_is_what_trtexec_says(program):
    profiler = TrtexecProfiler(program=program, precision="fp16", sparse_weights=True, gpu=1)
    device = profiler.device
    assert (device.name, device.runtime, device.runtime_version) == ("Orin", "tensorrt", "10.13.3")
    assert (device.provider, device.precision) == ("trtexec", "fp16")
    assert (device.details["compute_capability"], device.details["gpu"]) == ("8.7", "1")
    assert device.settings == {"sparse_weights": "true"}


def test_no_files_are_left(program):
    profiler = TrtexecProfiler(program=program)
    folder = Path(profiler._place.path("x")).parent
    profiler.measure([conv_artifact("a", 8)], SHORT)
    assert list(folder.iterdir())
    profiler._place.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("version", "precision", "options"),
    [
        ("101303", "int8", {"--int8", "--fp16"}),
        ("101303", "bf16", {"--bf16"}),
        ("8602", "fp16", {"--fp16"}),
        ("110400", "int8", set()),
        ("110400", "fp32", {"--noTF32"}),
    ],
)
def test_precision_is_told_as_the_version_takes_it(
    program, tmp_path, monkeypatch, version, precision, options
):
    monkeypatch.setenv("TRTEXEC_VERSION", version)
    profiler = TrtexecProfiler(program=program, precision=precision)
    (measured,) = profiler.measure([conv_artifact("a", 16)], SHORT)
    assert measured.ok
    build = next(c for c in calls(tmp_path) if any(o.startswith("--saveEngine") for o in c))
    flags = {"--fp16", "--bf16", "--int8", "--fp8", "--noTF32"}
    assert flags & set(build) == options
    model = onnx.load(next(o for o in build if o.startswith("--onnx")).partition("=")[2])
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    half = version == "110400" and precision != "fp32"
    assert kinds["conv1.weight"] == (onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT)


def test_shapes_are_given_where_they_vary(program, tmp_path):
    fixed = conv_artifact("a", 8, batch=2)
    model = onnx.load_from_string(fixed.onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    varying = Artifact("varying", model.SerializeToString(), fixed.inputs)
    assert all(m.ok for m in TrtexecProfiler(program=program).measure([fixed, varying], SHORT))
    given = [o for c in calls(tmp_path) for o in c if o.startswith("--shapes")]
    assert set(given) == {"--shapes=x:2x3x16x16"}


def test_errors_are_values_in_trtexecs_words(program):
    good = conv_artifact("good", 8)
    results = TrtexecProfiler(program=program).measure(
        [good, Artifact("unfed", good.onnx, {}), Artifact("rubbish", b"no ONNX", good.inputs)], FEW
    )
    assert results[0].ok
    assert "its inputs must be ['x']" in results[1].error
    assert not results[2].ok
    assert not results[2].kernels


def test_a_failing_build_is_told(program, monkeypatch, tmp_path):
    profiler = TrtexecProfiler(program=program)
    monkeypatch.setenv("TRTEXEC_END", "")
    (torn,) = profiler.measure([conv_artifact("a", 8)], SHORT)
    assert "must write times as a JSON list" in torn.error
    monkeypatch.delenv("TRTEXEC_END")
    broken = script(
        tmp_path / "broken",
        'case "$*" in *help*) echo "[TensorRT v101303]"; exit 0;; esac',
        'echo "[t] [E] Error Code 2: no tactic"; exit 1',
    )
    (failed,) = TrtexecProfiler(program=broken).measure([conv_artifact("a", 8)], FEW)
    assert "ended with status 1: Error Code 2: no tactic" in failed.error


def test_a_program_that_hangs_is_ended(program, monkeypatch):
    profiler = TrtexecProfiler(program=program)
    profiler.device  # noqa: B018
    monkeypatch.setenv("TRTEXEC_HANGS", "1")
    profiler._timeout_s = 3.0
    (hung,) = profiler.measure([conv_artifact("a", 8)], SHORT)
    assert "took longer than timeout_s (3 s)" in hung.error


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """A program that is called as ssh is and runs the command on this machine."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "ssh.log"))
    return script(
        tmp_path / "ssh",
        'echo "$3" >> "$SSH_LOG"',
        '[ "$3" = jetson ] || { echo "no route to host" >&2; exit 255; }',
        f"left=$(cat {tmp_path}/lost 2>/dev/null || echo 0)",
        f'[ "$left" = 0 ] || {{ echo $((left - 1)) > {tmp_path}/lost; exit 255; }}',
        f'HOME={home} TMPDIR={home} exec sh -c "$4"',
    )


def test_it_runs_on_another_machine(program, ssh, tmp_path):
    profiler = TrtexecProfiler(program=program, host="jetson", ssh=ssh)
    assert profiler.remote
    results = profiler.measure([conv_artifact("a", 16), conv_artifact("b", 8)], FEW)
    assert [r.ok for r in results] == [True, True]
    assert len(results[0].kernels) == 2
    home = tmp_path / "home"
    (kept,) = (home / ".cache" / "autoprune" / "tensorrt").iterdir()
    assert kept.name == "orin-trtexec-10.13.3.cache"
    assert [p for p in home.iterdir() if p.name.startswith("autoprune-")]
    profiler._place.close()
    assert [p.name for p in home.iterdir()] == [".cache"]


def test_a_connection_that_is_lost_is_made_again(program, ssh, tmp_path, monkeypatch):
    monkeypatch.setattr(trtexec_place, "PAUSE_S", 0.0)
    profiler = TrtexecProfiler(program=program, host="jetson", ssh=ssh)
    artifacts = [conv_artifact("a", 16), conv_artifact("b", 8)]
    (tmp_path / "lost").write_text(str(trtexec_place.ATTEMPTS - 1))
    assert [r.ok for r in profiler.measure(artifacts, FEW)] == [True, True]
    assert (tmp_path / "lost").read_text().strip() == "0", "it was lost, and made again"
    (tmp_path / "lost").write_text("1000")
    assert all("255" in r.error or "lost" in r.error for r in profiler.measure(artifacts, FEW))
    program_line = ["trtexec", "--version"]
    with pytest.raises(ProfilerError, match="lost 3 times"):
        profiler._place.run(program_line, 5.0)


def test_a_machine_that_can_not_be_reached_is_told(program, ssh):
    with pytest.raises(ProfilerError, match="no route to host"):
        TrtexecProfiler(program=program, host="elsewhere", ssh=ssh)
    with pytest.raises(ProfilerError, match="user@host"):
        TrtexecProfiler(program=program, host="-oProxyCommand=x", ssh=ssh)
    with pytest.raises(MissingDependencyError, match="ssh program"):
        TrtexecProfiler(program=program, host="jetson", ssh="no-such-ssh")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int4"}, "got 'int4'"),
        ({"optimization_level": -1}, "between 0 and 5"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"program": "/bin/true"}, "must be trtexec"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ProfilerError, match=said):
        TrtexecProfiler(**settings)


def test_without_the_program_it_says_where_it_comes_from(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(trtexec, "USUAL", "/nowhere/trtexec")
    (row,) = [row for row in devices() if row.name == "trtexec"]
    assert not row.available
    assert "libnvinfer-bin" in row.missing


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("[TensorRT v8602]", (8, 6, 2)),
        ("[TensorRT v100300]", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110401] [b1] # trtexec --help", (11, 4, 1)),
        ("[TensorRT v10.3.0]", (10, 3, 0)),
    ],
)
def test_versions_are_read(banner, version):
    assert trtexec_files.version(banner) == version


def test_old_versions_and_wrong_files_are_refused():
    with pytest.raises(ProfilerError, match=r"8\.6 or later, got 8\.5\.2"):
        trtexec_files.version("[TensorRT v8502]")
    with pytest.raises(ProfilerError, match="Selected Device"):
        trtexec_files.device("nothing")
    for text in ("", "{}", "[1]", "[]", '[{"computeMs": -1}]'):
        with pytest.raises(ProfilerError, match="times"):
            trtexec_files.read_times(text)
    for text in ("", '[{"name": "a"}]', "3"):
        with pytest.raises(ProfilerError, match="profile as a JSON list"):
            trtexec_files.read_profile(text)
    older = '[ {"count": 3}, {"name": "a", "timeMs": 3, "averageMs": 1, "percentage": 100} ]'
    assert trtexec_files.read_profile(older) == {"a": 1.0}
