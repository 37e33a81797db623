"""The agent's requests, in this process, and the check of what it replies."""

import hashlib
import io
import json
import math
import re

import numpy as np
import pytest
from few_rounds import FEW
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoprune.core.device import KernelTime, Measurement
from autoprune.core.errors import ProfilerError
from autoprune.profile import agent_runtimes, onnxruntime_kernels, openvino_kernels, replies
from autoprune.profile.agent import Agent, packed
from autoprune.profile.agent_running import Runtime
from autoprune.profile.node_times import TOO_QUICK
from autoprune.profile.ssh_options import remote_runtime
from autoprune.testing.profilers import conv_artifact

NODES = [{"name": "a", "op": "Conv", "input_shapes": [[1, 2]]}, {"name": "b", "op": "Relu"}]
TIMES = np.array([[1, 2], [3, 0], [5, 6]], dtype="<u4")
REPLY = {"nodes": NODES, "runs": 3, "times_us": packed(TIMES.tobytes())}


@given(arrays.arrays("<u4", st.tuples(st.integers(1, 5), st.integers(1, 4))))
def test_what_is_packed_is_unpacked(times):
    nodes = [{"name": str(i), "op": "Conv"} for i in range(times.shape[1])]
    reply = {"nodes": nodes, "runs": len(times), "times_us": packed(times.tobytes())}
    found = replies.node_times(reply, len(times), "it")
    assert np.array_equal(found.times_us, times)
    assert [k.name for k in found.kernels(found.times_us[0])] == [n["name"] for n in nodes]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": []}, "must tell nodes"),
        ({"nodes": [{"name": "a"}, NODES[1]]}, "must tell nodes"),
        ({"nodes": [{**NODES[0], "input_shapes": [["x"]]}, NODES[1]]}, "must tell nodes"),
        ({"nodes": [{**NODES[0], "layers": "conv1"}, NODES[1]]}, "must tell nodes"),
        ({"runs": 2}, "must tell 3 profiled runs, got 2"),
        ({"times_us": packed(TIMES[:2].tobytes())}, "6 numbers of 4 bytes, got 16 bytes"),
        ({"times_us": packed(bytes(1 << 20))}, "at most 24 bytes"),
        ({"times_us": packed(TIMES.tobytes())[:8]}, "times_us"),
        ({"times_us": "rubbish"}, "can't be unpacked"),
        ({"times_us": None}, "can't be unpacked"),
    ],
)
def test_a_wrong_profile_is_never_a_number(change, said):
    with pytest.raises(ProfilerError, match=said):
        replies.node_times({**REPLY, **change}, 3, "it")


@pytest.mark.parametrize("profile", [onnxruntime_kernels, openvino_kernels])
def test_a_network_that_is_quicker_than_the_profiles_clock_is_noted(profile):
    class Quick:
        fused = None

        def __init__(self):
            self.runs = 0

        def run(self, runs):
            self.runs += runs

        def read(self):
            zeros = {"runs": self.runs, "times_us": packed(bytes(4 * 2 * self.runs))}
            return replies.node_times({**REPLY, **zeros}, self.runs, "it")

    measured = [Measurement(key, 0.01) for key in ("a", "b")]
    more = [FEW] if profile is onnxruntime_kernels else []
    for found in profile.profile_kernels(lambda index: Quick(), measured, *more):
        assert found.ok
        assert found.kernels == ()
        assert found.notes == (TOO_QUICK,)


KERNELS = {
    "kernels": [
        {"name": "a", "op": "conv", "ms": 2.0, "layers": ["c"], "input_shapes": [[1, 2]]},
        {"name": "b", "op": "relu", "ms": 0, "output_shapes": [[3]], "about": "fused"},
    ],
    "reference_ms": 2.0,
}


def test_kernels_that_were_profiled_beside_the_reference():
    one, two = KERNELS["kernels"]
    told, whole_ms = replies.kernels(KERNELS, "it", reference=True)
    assert whole_ms == 2.0
    assert [each.about for each in told] == ["", "fused"]
    first, second = (each.kernel for each in told)
    assert first == KernelTime("a", ("c",), "conv", 2.0, ((1, 2),), ())
    assert second == KernelTime("b", (), "relu", 0.0, (), ((3,),))
    larger = {"kernels": [{**one, "ms": 5.0}, two], "reference_ms": 2.0}
    (told, _), whole_ms = replies.kernels(larger, "it", reference=False)
    assert (told.kernel.latency_ms, whole_ms) == (5.0, 2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernels": []}, "must tell kernels"),
        ({"kernels": None}, "must tell kernels"),
        ({"kernels": {"name": "a"}}, "must tell kernels"),
        (
            {"ms": None},
            "ms of the kernel 'a' of it must be a finite number of at least 0; got None",
        ),
        ({"ms": -1.0}, "at least 0; got -1.0"),
        ({"ms": math.nan}, "at least 0; got nan"),
        ({"ms": math.inf}, "at least 0; got inf"),
        ({"ms": "2"}, "at least 0; got '2'"),
        ({"ms": True}, "at least 0; got True"),
        ({"ms": 1.0}, "must add up to reference_ms, 2, of the reference itself; got 1"),
        ({"name": "b"}, "'b' comes twice"),
        ({"op": 3}, "must tell kernels"),
        ({"layers": [1]}, "must tell kernels"),
        ({"output_shapes": [[1.5]]}, "must tell kernels"),
        ({"about": 1}, "about of the kernel 'a' of it must be text; got 1"),
        ({"reference_ms": 0}, "reference_ms of it must be a positive, finite number; got 0"),
        ({"reference_ms": math.nan}, "positive, finite number; got nan"),
        ({"reference_ms": None}, "positive, finite number; got None"),
    ],
)
def test_wrong_kernels_are_never_a_number(change, said):
    reply = json.loads(json.dumps(KERNELS))
    of_kernel = {} if change.keys() & reply.keys() else change
    reply["kernels"][0].update(of_kernel)
    reply.update({} if of_kernel else change)
    with pytest.raises(ProfilerError, match=re.escape(said)):
        replies.kernels(reply, "it", reference=True)


class Clockwork(Runtime):
    """Tells its times itself; each of its networks takes as many milliseconds as its file says."""

    def __init__(self, threads):
        self.about = {"name": "clock", "runtime": "clockwork", "runtime_version": "1",
                      "provider": "spring", "threads": threads}  # fmt: skip
        self.details = {"clock": "its own"}
        self.ran = []

    def load(self, model, inputs):
        with open(model, "rb") as file:
            return Wheel(self, float(file.read()))

    def kernels(self, reference, own):
        return [{"name": "tick", "op": "tick", "ms": own.ms}], reference.ms


class Wheel:
    note = "wound up"

    def __init__(self, runtime, ms):
        self.runtime, self.ms = runtime, ms

    def run(self, runs):
        self.runtime.ran.append((self.ms, runs))

    def times_ms(self, runs):
        self.run(runs)
        return [self.ms] * runs


def test_a_runtime_tells_its_times_and_kernels_itself(tmp_path, monkeypatch):
    monkeypatch.setitem(agent_runtimes.RUNTIMES, "clockwork", f"{__name__}:Clockwork")
    files = [b"2.5", b"5"]
    agent = Agent(io.BytesIO(b"".join(files)))
    told = agent.start("clockwork", {"threads": 0}, "", {}, str(tmp_path), 1 << 20)
    assert told["details"]["clock"] == "its own"
    assert told["about"]["threads"] == 0
    for number, data in enumerate(files):
        digest = hashlib.sha256(data).hexdigest()
        agent.put(digest, len(data))
        reply = agent.load(number, digest, [], profile=False)
        assert reply == {"elsewhere": "", "note": "wound up"}
    assert agent.run(1, 3, False) == {"latencies_ms": [5.0] * 3}
    assert agent.runtime.ran == [(5.0, 3)]
    for number, ms in enumerate((2.5, 5.0)):
        (kernel,), whole_ms = replies.kernels(agent.kernels(number), "it", reference=not number)
        assert (kernel.kernel.latency_ms, whole_ms) == (ms, 2.5)
    with pytest.raises(ProfilerError, match="clockwork does not profile a network by itself"):
        agent.load(0, digest, [], profile=True)
    with pytest.raises(ProfilerError, match=r"this agent has .*; got 'sundial'"):
        agent.start("sundial", {}, "", {}, str(tmp_path), 1 << 20)


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_the_agent_profiles_as_many_runs_as_it_is_asked_for(runtime, tmp_path):
    pytest.importorskip(runtime.partition("-")[0])
    artifact = conv_artifact("a", 8)
    ((name, array),) = artifact.inputs.items()
    source = io.BytesIO(artifact.onnx + array.tobytes())
    agent = Agent(source)
    there = remote_runtime(runtime, {})
    agent.start(there.runtime, there.options, "", {}, str(tmp_path), 1 << 20)
    digests = []
    for data in (artifact.onnx, array.tobytes()):
        digests.append(hashlib.sha256(data).hexdigest())
        agent.put(digests[-1], len(data))
    given = {"name": name, "sha256": digests[1], "dtype": "<f4", "shape": list(array.shape)}
    assert "graph" in agent.load(0, digests[0], [given], profile=True)
    agent.profile(0, 2)
    agent.profile(0, 3)
    found = replies.node_times(agent.nodes(0), 5, "it")
    assert any("Conv" in kernel.op for kernel in found.kernels(found.times_us[0]))
