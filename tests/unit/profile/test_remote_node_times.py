"""The agent's requests for a profile, in this process, and the check of what it replies."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoprune.core.errors import ProfilerError
from autoprune.profile import replies
from autoprune.profile.agent import Agent, packed
from autoprune.profile.ssh_options import RemoteRuntime
from autoprune.testing.profilers import conv_artifact

NODES = [{"name": "a", "op": "Conv", "input_shapes": [[1, 2]]}, {"name": "b", "op": "Relu"}]
TIMES = np.array([[1, 2], [3, 0], [5, 6]], dtype="<u4")
REPLY = {"nodes": NODES, "runs": 3, "times_us": packed(TIMES.tobytes())}


@given(arrays.arrays("<u4", st.tuples(st.integers(1, 5), st.integers(1, 4))))
def test_what_is_packed_is_unpacked(times):
    times[0, 0] = 1
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
        ({"times_us": packed(bytes(24))}, "must not all be 0"),
    ],
)
def test_a_wrong_profile_is_never_a_number(change, said):
    with pytest.raises(ProfilerError, match=said):
        replies.node_times({**REPLY, **change}, 3, "it")


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_the_agent_profiles_as_many_runs_as_it_is_asked_for(runtime, tmp_path):
    pytest.importorskip(runtime.partition("-")[0])
    artifact = conv_artifact("a", 8)
    ((name, array),) = artifact.inputs.items()
    source = io.BytesIO(artifact.onnx + array.tobytes())
    agent = Agent(source)
    options = RemoteRuntime(runtime, "fp32", "all", {}, True).options
    agent.start(runtime, 1, options, "", {}, str(tmp_path), 1 << 20)
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
