"""Measuring over a real OpenSSH server on the loopback interface, with throw-away keys."""

import hashlib
import math
import os
import shutil
import signal
from dataclasses import replace

import pytest
import ssh_server
from few_rounds import FEW
from ssh_server import Cut, agent_with

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import ssh as module
from autoprune.profile import ssh_session
from autoprune.profile.node_times import TOO_QUICK
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.profile.registry import make_profiler
from autoprune.profile.ssh import SshProfiler
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def test_keeps_the_contract(server):
    check_profiler(server.profiler())


def test_the_device_is_the_one_at_the_other_end(server):
    device, here = server.profiler(threads=2).device, OnnxRuntimeProfiler(threads=2).device
    assert device == here
    assert device.details["over"].endswith("@127.0.0.1")
    assert device.details["clock"] == "wall"


def test_any_runtime_that_is_there(server):
    pytest.importorskip("openvino", reason="needs the package openvino")
    profiler = server.profiler(runtime="openvino-cpu")
    assert profiler.device == make_profiler("openvino-cpu").device
    found = profiler.measure([conv_artifact("a", 8), conv_artifact("b", 64, size=48)], FEW)
    assert all(m.ok for m in found)
    assert found[1].ratio > 1


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_kernels_are_those_of_the_profiler_here(server, runtime):
    pytest.importorskip(runtime.partition("-")[0])
    protocol = replace(FEW, kernels=True)
    artifacts = [conv_artifact("a", 32, layers=3), conv_artifact("b", 64, layers=3)]
    there = server.profiler(runtime=runtime).measure(artifacts, protocol)
    here = make_profiler(runtime).measure(artifacts, protocol)
    for far, near in zip(there, here, strict=True):
        assert far.ok
        assert any(k.layers for k in far.kernels)
        for field in ("name", "layers", "op", "input_shapes", "output_shapes"):
            assert [getattr(k, field) for k in far.kernels] == [
                getattr(k, field) for k in near.kernels
            ]
    total = sum(k.latency_ms for k in there[0].kernels)
    assert total == pytest.approx(there[0].latency_ms)
    assert sum(k.latency_ms for k in there[1].kernels) > total


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_networks_quicker_than_the_profiles_clock_are_noted_as_here(server, monkeypatch, runtime):
    pytest.importorskip(runtime.partition("-")[0])
    agent_with(monkeypatch, b"numpy.array(times, dtype", b"numpy.zeros_like(times, dtype")
    protocol = replace(FEW, kernels=True)
    artifacts = [conv_artifact("a", 8), conv_artifact("b", 8)]
    for found in server.profiler(runtime=runtime).measure(artifacts, protocol):
        assert found.ok
        assert found.kernels == ()
        assert found.notes[-1] == TOO_QUICK


def test_networks_are_loaded_before_the_time_limit_begins(server, monkeypatch):
    asked = []
    real = ssh_session.Session.ask

    def ask(session, do, data=b"", **arguments):
        asked.append(do)
        return real(session, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    found = server.profiler().measure([conv_artifact(n, 8) for n in ("a", "b", "c")], FEW)
    assert all(m.ok for m in found)
    assert asked.count("load") > 2
    assert "load" not in asked[asked.index("run") :]


def test_what_a_runtime_is_told_is_told_of_the_device(server):
    told = {"graph_optimization": "basic"}
    profiler, here = server.profiler(**told), OnnxRuntimeProfiler(**told)
    assert profiler.device == here.device
    assert profiler.device != OnnxRuntimeProfiler().device
    (found,) = profiler.measure([conv_artifact("a", 32)], replace(FEW, kernels=True))
    # The blocked layout, which reorders its tensors, is made at the highest level only.
    assert found.kernels
    assert not any("Reorder" in kernel.op for kernel in found.kernels)


def test_a_precision_is_as_here_or_an_error_there(server):
    openvino = pytest.importorskip("openvino")
    given = {"runtime": "openvino-cpu", "precision": "bf16"}
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        here = make_profiler("openvino-cpu", precision="bf16").device
        assert server.profiler(**given).device == here
    else:
        with pytest.raises(ProfilerError, match="can't compute in bf16"):
            server.profiler(**given).device  # noqa: B018


def test_a_profile_whose_connection_is_cut_is_taken_anew(server, monkeypatch):
    asked = []
    real = ssh_session.Session.ask

    def ask(session, do, data=b"", **arguments):
        if do == "profile":
            asked.append(arguments["number"])
            if len(asked) == 4:
                os.kill(session.pid, signal.SIGKILL)
        return real(session, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    artifacts = [conv_artifact("a", 8), conv_artifact("b", 16)]
    found = server.profiler().measure(artifacts, replace(FEW, kernels=True))
    assert all(m.ok and m.kernels for m in found)


def test_a_search_is_measured_there(server, tmp_path):
    import tiny_task

    import autoprune

    result = autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        budget="macs=0.5x",
        evaluate=tiny_task.evaluate,
        calibration=tiny_task.calibration(),
        device=f"{server.address}?threads=1&power_w=5",
        device_options={"python": server.python, "ssh": f"ssh -F {server.folder}/config"},
        searcher="random",
        trials=3,
        verify={"top": 1, "rounds": 1, "width": 0.5, "timeout_s": 300},
        out=tmp_path / "run",
    )
    assert result.held
    assert result.data["winner"]["measured"]["latency_ms"] > 0
    assert result.data["winner"]["measured"]["energy_source"] == "modelled"
    assert "ssh to" in result.data["device"]["details"]["over"]


def test_a_device_that_is_not_there_is_told_before_a_search_not_after():
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh")
    import tiny_task

    import autoprune

    given = {
        "evaluate": tiny_task.evaluate,
        "calibration": tiny_task.calibration(),
        "device": "ssh://127.0.0.1:1",
        "searcher": "random",
        "trials": 2,
    }
    result = autoprune.search(tiny_task.build(), tiny_task.inputs(), budget="macs=0.5x", **given)
    assert "nothing was measured: 127.0.0.1 can't be reached over ssh" in str(result.data["notes"])
    with pytest.raises(ProfilerError, match=r"can't be reached over ssh: .*refused"):
        autoprune.search(tiny_task.build(), tiny_task.inputs(), budget="latency=0.5x", **given)


def test_networks_are_sent_once_and_kept_by_their_hash(server, monkeypatch):
    asked = []
    real = ssh_session.Session.ask

    def ask(self, do, data=b"", **arguments):
        if do == "put":
            asked.append(arguments["digest"])
        return real(self, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    artifacts = [conv_artifact("a", 24), conv_artifact("b", 40), conv_artifact("again", 24)]
    for _ in range(2):
        assert all(m.ok for m in server.profiler().measure(artifacts, FEW))
    assert len(asked) == len(set(asked)) >= 2
    assert {hashlib.sha256(a.onnx).hexdigest() for a in artifacts} <= set(asked)
    digest = hashlib.sha256(artifacts[0].onnx).hexdigest()
    assert (server.files / digest).read_bytes() == artifacts[0].onnx
    # Damaged on the device: noticed, removed, and there again the time after.
    (server.files / digest).write_bytes(b"rubbish")
    found = server.profiler().measure(artifacts, FEW)
    assert "was not what its name says" in found[0].error or all(m.ok for m in found)
    assert all(m.ok for m in server.profiler().measure(artifacts, FEW))


def test_many_networks_are_measured_in_chunks(server):
    artifacts = [conv_artifact(f"n{i}", 8 + 8 * i) for i in range(4)]
    found = server.profiler(sessions=2).measure(artifacts, FEW)
    assert [m.key for m in found] == [a.key for a in artifacts]
    for measurement in found:
        assert measurement.ok, measurement.error
        assert measurement.latency_ms == pytest.approx(measurement.ratio * found[0].latency_ms)


def test_a_connection_that_is_cut_is_made_anew(server, monkeypatch):
    cut = Cut(monkeypatch, lambda count, number: count in (3, 8))
    artifacts = [conv_artifact("a", 8), conv_artifact("b", 16)]
    found = server.profiler().measure(artifacts, FEW)
    assert cut.cuts == 2
    assert all(m.ok for m in found)
    assert len(found[1].samples_ms) >= 2


def test_a_network_that_always_loses_the_connection_is_an_error_of_its_own(server, monkeypatch):
    cut = Cut(monkeypatch, lambda count, number: number == 1)
    artifacts = [conv_artifact("a", 8), conv_artifact("deadly", 16), conv_artifact("c", 8)]
    good, deadly, other = server.profiler().measure(artifacts, FEW)
    assert cut.cuts == 2
    assert "was lost 2 times while this was measured" in deadly.error
    assert good.ok
    assert other.ok


def test_a_run_that_hangs_is_ended_on_the_device_and_recorded(server, monkeypatch):
    # Number 1 never comes back to the agent: only the operating system's timer can end it.
    agent_with(
        monkeypatch,
        b"            times = network.times_ms(runs)\n",
        b"            while number == 1: pass\n            times = network.times_ms(runs)\n",
    )
    real = ssh_session.Session.ask

    def ask(session, do, data=b"", **arguments):
        if do == "run" and arguments["number"] == 1:
            session._timeout_s = 4.0  # of this request alone: to connect takes as long as it takes
        return real(session, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    artifacts = [conv_artifact("a", 8), conv_artifact("hangs", 16)]
    good, hangs = server.profiler().measure(artifacts, FEW)
    assert good.ok
    assert "was lost 2 times" in hangs.error


def test_a_full_disk_is_an_error_of_that_network(server, monkeypatch):
    agent_with(
        monkeypatch,
        b'            with open(part, "wb") as file:\n',
        b'            if len(data) > 20000: raise OSError(28, "No space left on device")\n'
        b'            with open(part, "wb") as file:\n',
    )
    artifacts = [conv_artifact("a", 8), conv_artifact("large", 48)]
    good, large = server.profiler().measure(artifacts, FEW)
    assert good.ok
    assert "No space left on device; make room there" in large.error


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"VERSION = 4\n", b"VERSION = 5\n", "the agent there is of version 5"),
        (b"    agent = Agent(source)\n", b"    print(1 / 0)\n", "ZeroDivisionError"),
        (b'{"latencies_ms": times, ', b'{"latencies_ms": [0.0] * runs, ',
         "must be positive, finite numbers; got 0.0"),
        (b'{"latencies_ms": times, ', b'{"latencies_ms": times[1:], ', "numbers; got"),
        (b'        return {"latencies_ms": times, ',
         b'        os.write(3, b"rubbish\\n"); return {"latencies_ms": times, ', "in JSON"),
    ],
)  # fmt: skip
def test_an_agent_that_misbehaves_never_gives_a_number(server, monkeypatch, old, new, said):
    agent_with(monkeypatch, old, new)
    for measurement in server.profiler().measure([conv_artifact("a", 8)] * 2, FEW):
        assert not measurement.ok
        assert said in measurement.error


def test_an_agent_damaged_on_its_way_is_not_run(server, monkeypatch):
    real = ssh_session.Session._write
    monkeypatch.setattr(
        ssh_session.Session,
        "_write",
        lambda self, data: real(self, data.replace(b"def serve", b"def Serve")),
    )
    with pytest.raises(ProfilerError, match="the agent was damaged on its way"):
        server.profiler().device  # noqa: B018


def test_hosts_and_keys_are_checked_as_ssh_does(server, tmp_path):
    known = (server.folder / "known").read_text()
    other = " ".join(ssh_server.keygen(tmp_path / "other"))
    config = (server.folder / "config").read_text()
    for name, text in (("unknown", ""), ("changed", f"{known.split()[0]} {other}\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / "config").write_text(
            config.replace(f"{server.folder}/known", f"{tmp_path / name}")
        )
        profiler = server.profiler(ssh=f"ssh -F {tmp_path}/config")
        said = "Host key verification failed. This must work without a question: ssh -F .* true$"
        with pytest.raises(ProfilerError, match=said):
            profiler.device  # noqa: B018
    (tmp_path / "config").write_text(config.replace(f"{server.folder}/user", f"{tmp_path}/other"))
    profiler = server.profiler(ssh=f"ssh -F {tmp_path}/config")
    (failed,) = profiler.measure([conv_artifact("a", 8)], QUICK)
    assert "Permission denied" in failed.error


def test_what_is_missing_on_the_device_is_told(server):
    cases = {
        "python": ("no-such-python", r"does not start there: .*not found \(status 127\).*option"),
        "runtime": ("onnxruntime-cuda", r"built with \(.*cpu\); got 'cuda'. To get it: "),
    }
    for option, (value, said) in cases.items():
        with pytest.raises(ProfilerError, match=said):
            server.profiler(**{option: value}).device  # noqa: B018
    with pytest.raises(ProfilerError, match="runtime must be one of onnxruntime-cpu"):
        server.profiler(runtime="tvm").device  # noqa: B018


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_where_to_install_a_runtime_is_told(server, tmp_path, runtime):
    (tmp_path / f"{runtime}.py").write_text("raise ImportError('it is not there')\n")
    profiler = server.profiler(
        runtime=f"{runtime}-cpu", python=f"PYTHONPATH={tmp_path} {server.python}"
    )
    said = rf"python.* -m pip install {runtime}, or name another .* \(it is not there"
    with pytest.raises(ProfilerError, match=said):
        profiler.device  # noqa: B018


def test_another_device_in_the_middle_is_refused(server, monkeypatch):
    profiler = server.profiler()
    Cut(monkeypatch, lambda count, number: count == 3)
    describe, found = profiler._connection.describe, []

    def another(told):
        found.append(describe(told))
        return found[0] if len(found) == 1 else OnnxRuntimeProfiler(threads=2).device

    profiler._connection.describe = another
    found = profiler.measure([conv_artifact("a", 8), conv_artifact("b", 8)], FEW)
    assert all("another device answers than before" in m.error for m in found)


def test_old_files_make_room_for_new_ones(server):
    first, second = conv_artifact("first", 100, layers=3), conv_artifact("second", 104, layers=3)
    profiler = server.profiler(cache_mb=1)
    for artifact in (first, second):
        assert profiler.measure([artifact], FEW)[0].ok
    kept = sum(path.stat().st_size for path in server.files.iterdir())
    assert kept <= 1 << 20
    assert (server.files / hashlib.sha256(second.onnx).hexdigest()).exists()
    assert not (server.files / hashlib.sha256(first.onnx).hexdigest()).exists()


@pytest.mark.parametrize(
    ("address", "target", "port"),
    [
        ("ssh://board", "board", []),
        ("ssh://Pi@MyBoard:2222/", "Pi@MyBoard", ["-p2222"]),
        ("ssh://pi@[::1]:22", "pi@::1", ["-p22"]),
    ],
)
def test_addresses(address, target, port):
    assert module._target(address) == (target, port)


@pytest.mark.parametrize(
    "address",
    ["ssh://", "http://board", "board", "ssh://-oProxyCommand=x", "ssh://-x@board",
     "ssh://pi:secret@board", "ssh://board/path", "ssh://board:port", "ssh://board:22#x"],
)  # fmt: skip
def test_wrong_addresses_are_refused(address):
    with pytest.raises(ProfilerError, match="ssh://user@host:port"):
        module._target(address)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"ssh": "no-such-ssh"}, MissingDependencyError, "openssh-client"),
        ({"threads": 0}, ProfilerError, "threads must be an integer of at least 1, got 0"),
        ({"precision": "bf16"}, ProfilerError, "must be one of fp32, fp16, int8 with onnxruntime"),
        ({"runtime": "openvino-cpu", "precision": "int8"}, ProfilerError, "fp32, bf16, fp16 with"),
        ({"runtime": "trtexec"}, ProfilerError, r"trtexec\?host=user@host"),
        ({"cpu_fallback": False}, ProfilerError, "cpu_fallback must be left out"),
        (
            {"runtime": "openvino-cpu", "graph_optimization": "basic"},
            ProfilerError,
            "openvino-cpu over ssh has no option 'graph_optimization'; it has threads, precision",
        ),
        ({"provider": "cuda"}, ProfilerError, "it is part of the runtime's name"),
        ({"runtime": "onnxruntime-*"}, ProfilerError, "must be one of onnxruntime-cpu"),
        ({"timeout_s": 0}, ProfilerError, "timeout_s must be at least 1"),
        ({"timeout_s": math.inf}, ProfilerError, "at least 1 and finite, got inf"),
        ({"reconnect_s": -1}, ProfilerError, "reconnect_s must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options, error, said):
    if "ssh" not in options and shutil.which("ssh") is None:
        pytest.skip("needs ssh")
    with pytest.raises(error, match=said):
        make_profiler("ssh://board", **options)


def test_options_stand_after_the_address():
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh")
    assert isinstance(make_profiler("ssh://pi@board?runtime=openvino-cpu&threads=4"), SshProfiler)
    with pytest.raises(ProfilerError, match=r"'threads' of onnxruntime-cpu over ssh .* an integer"):
        make_profiler("ssh://pi@board?threads=many")
    with pytest.raises(ProfilerError, match="stands twice"):
        make_profiler("ssh://board", address="ssh://other")
