"""PyTorch at the agent, in this process: networks that were exported, run as their modules run."""

import hashlib
import io
import shutil
import sys
from dataclasses import dataclass

import pytest
import tiny_task
import torch
from torch import nn

from autoprune.core.device import Artifact, ModuleCall
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import pytorch_program, replies
from autoprune.profile.agent import Agent
from autoprune.profile.pytorch_export import exported
from autoprune.profile.pytorch_kernels import profile_beside
from autoprune.profile.pytorch_program import Program
from autoprune.profile.pytorch_runs import Runs
from autoprune.profile.ssh_options import remote_runtime
from autoprune.testing.profilers import conv_artifact

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++"
)


def started(tmp_path, files, **options):
    """An agent that has been sent some files, and their hashes."""
    agent = Agent(io.BytesIO(b"".join(files)))
    there = remote_runtime("pytorch-cpu", options)
    told = agent.start(there.runtime, there.options, "", {}, str(tmp_path), 1 << 24)
    digests = [hashlib.sha256(data).hexdigest() for data in files]
    for digest, data in zip(digests, files, strict=True):
        agent.put(digest, len(data))
    return agent, told, digests


def program(tmp_path, call, **settings):
    file = tmp_path / "network.pt2"
    file.write_bytes(exported(call))
    return Program(Runs(torch, "cpu", **{"mode": "eager", "precision": "fp32", **settings}), file)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_runs_and_profiles_what_it_is_sent(tmp_path, threads):
    networks = [conv_artifact("a", 8).call(), conv_artifact("b", 16, layers=3).call()]
    agent, told, digests = started(tmp_path, [exported(call) for call in networks])
    assert told["about"]["runtime"] == "pytorch"
    assert told["about"]["provider"] == "cpu-eager"
    assert told["details"]["clock"] == "thread CPU time"
    for number, digest in enumerate(digests):
        assert agent.load(number, digest, [], profile=False) == {"elsewhere": "", "note": ""}
        reply = agent.run(number, 3, False)
        assert len(reply["slowed"]) == 3, "how slow its core was beside each run"
        found = replies.visit(reply, 3, "it")
        assert found.latency_ms > 0
        agent.networks[number].run(2)
    kernels, whole_ms = replies.kernels(agent.kernels(0), "it", reference=True)
    assert sum(each.kernel.latency_ms for each in kernels) == pytest.approx(whole_ms)
    kernels, _ = replies.kernels(agent.kernels(1), "it", reference=False)
    assert [(k.kernel.op, k.kernel.layers) for k in kernels] == [
        ("conv2d", ("0",)), ("relu", ()), ("conv2d", ("2",)), ("relu", ()), ("conv2d", ("4",)),
        ("relu", ()),
    ]  # fmt: skip
    assert kernels[2].kernel.input_shapes == ((1, 16, 16, 16), (16, 16, 3, 3))


def test_operators_and_layers_are_those_of_the_module(tmp_path, threads):
    module, inputs = tiny_task.build(), (tiny_task.inputs(),)
    there = program(tmp_path, ModuleCall(module, inputs))
    runs = Runs(torch, "cpu", "eager", "fp32")
    own = (module, runs.eager(module, inputs, {}))
    assert torch.equal(there.run()[0], own[1]())
    told = [profile_beside(each, each, False)[0] for each in (own, (there.module, there.run))]
    near, far = ([{**kernel, "ms": 0} for kernel in each] for each in told)
    assert near == far
    assert not [node for node in nodes(there) if isinstance(node.target, torch._ops.OpOverload)]


def nodes(program):
    """The operators of a program's modules."""
    for part in program.module.modules():
        yield from (node for node in part.graph.nodes if node.op == "call_function")


class Odd(nn.Module):
    """Calls a layer twice, takes a keyword, gives back a dict, and changes a tensor in place."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("shift", torch.arange(3.0).view(1, 3, 1, 1))

    def forward(self, x, scale=None, *, more=()):
        y = self.twice(self.twice(x).relu_())
        y += self.shift
        y = y if scale is None else y * scale
        return {"sum": y + sum(more), "first": (y[:, 0], y.shape[0])}


def test_modules_of_any_signature(tmp_path, threads):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kwargs = {"more": [torch.ones(1), torch.full((4,), 2.0)], "scale": torch.tensor(0.5)}
    module = Odd().eval()
    there = program(tmp_path, ModuleCall(module, (x,), kwargs))
    wanted = torch.utils._pytree.tree_leaves(module(x, **kwargs))
    for _ in range(2):
        found = torch.utils._pytree.tree_leaves(there.run())
        for one, other in zip(wanted, found, strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    network = (there.module, there.run)
    layers = [kernel["layers"] for kernel in profile_beside(network, network, False)[0]]
    assert [each for each in layers if each] == [["twice"], ["twice"]]


def test_a_function_that_does_something_else_is_not_called(tmp_path, threads, monkeypatch):
    call = ModuleCall(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.ones(2, 4),))
    real = pytorch_program._function
    for wrong in (torch.neg, torch.conv2d):
        with monkeypatch.context() as patch:
            patch.setattr(
                pytorch_program,
                "_function",
                lambda torch, name, wrong=wrong: wrong if "linear" in name else real(torch, name),
            )
            there = program(tmp_path, call)
        assert torch.equal(*there.run(), call.module(*call.args))
        called = {node.name: node.target for node in nodes(there)}
        assert called["linear"] == torch.ops.aten.linear.default
        assert called["relu"] == torch.relu


class Attention(nn.Module):
    """Has a module called self, as transformers' BERT; casts, which export checks."""

    def __init__(self):
        super().__init__()
        self.self, self.output = nn.Sequential(nn.Linear(4, 4)), Output()

    def forward(self, x):
        return self.output(self.self(x.to(torch.float32)), x)


class Output(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, first, x):
        return self.dense(first) + x


def test_names_and_checks_that_stand_in_the_way_of_code(tmp_path, threads):
    call = ModuleCall(Attention(), (torch.ones(2, 4),))
    there = program(tmp_path, call)
    assert torch.equal(*there.run(), call.module(*call.args))
    kernels, _ = profile_beside((there.module, there.run), (there.module, there.run), False)
    assert [(kernel["op"], kernel["layers"]) for kernel in kernels] == [
        ("to", []), ("linear", ["self.0"]), ("linear", ["output.dense"]), ("add", []),
    ]  # fmt: skip


@dataclass
class Found:
    """An output of a class of its own, as those of transformers, and an input likewise."""

    scores: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


torch.export.register_dataclass(Found)


class Finding(nn.Linear):
    def forward(self, given, times=1, *, scale):
        hidden = super().forward(given.scores) * times
        return {"found": Found(hidden * scale["by"], (hidden, given.hidden[0]))}


@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=NEEDS_COMPILER)])
def test_classes_of_inputs_and_outputs_are_not_needed_there(tmp_path, threads, mode):
    given = Found(torch.ones(2, 4), (torch.zeros(2),))
    call = ModuleCall(Finding(4, 3), (given, 2), {"scale": {"by": torch.full((3,), 3.0)}})
    wanted = call.module(*call.args, **call.kwargs)["found"]
    told = torch.export.load(io.BytesIO(exported(call))).call_spec
    assert "Found" not in repr(told)
    there = program(tmp_path, call, mode=mode)
    for found, known in zip(there.run(), (wanted.scores, *wanted.hidden), strict=True):
        assert torch.allclose(found, known)


class Positions(nn.Module):
    """Slices a buffer, as transformers' BERT; torch.compile can't in inference mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.arange(8.0).expand(1, -1))

    def forward(self, x):
        return x + self.positions[:, : x.shape[1]]


@NEEDS_COMPILER
def test_a_slice_of_a_buffer_is_compiled(tmp_path, threads):
    there = program(tmp_path, ModuleCall(Positions(), (torch.zeros(2, 4),)), mode="compiled")
    runs = Runs(torch, "cpu", "compiled", "fp32", 1, 0)
    here = runs.ready(runs.eager(Positions(), [torch.zeros(2, 4)], {}))
    for found in (*runs.ready(there.run)(), here()):
        assert torch.equal(found, torch.arange(4.0).expand(2, -1))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=NEEDS_COMPILER)])
def test_normalisations_use_cudnn_where_modules_do(tmp_path, threads, enabled, mode):
    module = nn.Sequential(nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(4)).eval()
    with torch.backends.cudnn.flags(enabled=enabled):
        there = program(tmp_path, ModuleCall(module, (torch.ones(1, 3, 4, 4),)), mode=mode)
    flags = [
        node.args[-1]
        for part in there.module.modules()
        for node in (part.graph.nodes if hasattr(part, "graph") else ())
        if "norm" in str(node.target) and node.op == "call_function"
    ]
    assert flags == [enabled] * 3


def test_precision_is_by_autocast_there_too(tmp_path, threads):
    call = ModuleCall(nn.Linear(4, 4), (torch.ones(2, 4),))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        (found,) = program(tmp_path, call, precision=precision).run()
        assert found.dtype == dtype


@NEEDS_COMPILER
def test_compiled(tmp_path, threads):
    call = conv_artifact("a", 8).call()
    agent, told, (digest,) = started(tmp_path, [exported(call)], mode="compiled")
    assert told["about"]["provider"] == "cpu-compiled"
    agent.load(0, digest, [], profile=False)
    assert len(agent.run(0, 2, False)["latencies_ms"]) == 2


def test_what_cant_be_exported_says_so():
    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    there = remote_runtime("pytorch-cpu", {})
    x = torch.ones(2)
    calls = {
        "good": lambda: ModuleCall(nn.ReLU(), (x,)),
        "depends": lambda: ModuleCall(Depends(), (x,)),
        "function": lambda: ModuleCall(torch.relu, (x,)),
    }
    artifacts = [Artifact(key, b"", {}, call=call) for key, call in calls.items()]
    sent, errors = there.ready([*artifacts, Artifact("alone", b"", {})])
    assert len(sent) == 4
    assert sent[0].file
    assert errors.keys() == {1, 2, 3}
    assert "torch.export can't export it" in errors[1]
    assert "must be a torch.nn.Module to be sent, got builtin_function" in errors[2]
    assert "given as ONNX alone" in errors[3]


def test_rubbish_and_another_version_are_told(tmp_path, threads):
    agent, _, (digest,) = started(tmp_path, [b"rubbish"])
    with pytest.raises(Exception, match=r"pt2 archive|zip"):
        agent.load(0, digest, [], profile=False)
    agent.runtime._exporter = "2.99"
    with pytest.raises(ProfilerError, match=r"can't run what torch 2\.99 here exported .*install"):
        agent.load(0, digest, [], profile=False)


@pytest.mark.parametrize(
    ("runtime", "options", "said"),
    [
        ("pytorch-cpu", {"mode": "cuda-graph"}, "mode on cpu must be one of eager, compiled"),
        ("pytorch-cpu", {"precision": "int8"}, "precision must be one of fp32, bf16, fp16"),
        ("pytorch-cpu", {"threads": 0}, "threads must be an integer of at least 1, got 0"),
        ("pytorch-cpu", {"index": 1}, "has no option 'index'; it has threads, mode, precision"),
        ("pytorch-cuda", {"threads": 2}, "has no option 'threads'; it has mode, precision, index"),
        ("pytorch-cuda", {"index": -1}, "index must be that of a GPU, from 0; got -1"),
        ("pytorch-cpu", {"calibration": "batches.npz"}, "has no option 'calibration'"),
        ("pytorch", {}, "must be one of .*pytorch-cpu, pytorch-cuda"),
    ],
)
def test_wrong_options(runtime, options, said):
    with pytest.raises(ProfilerError, match=said):
        remote_runtime(runtime, options)


def test_batches_of_a_search_are_left_to_others():
    assert remote_runtime("pytorch-cpu", {"calibration": [torch.zeros(2)]}).runtime == "pytorch"


def test_what_is_missing_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ProfilerError, match=r"no 'no-such-compiler' here: .* \(on the device\)"):
        started(tmp_path, [], mode="compiled")
    there = remote_runtime("pytorch-cpu", {})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProfilerError, match="-m pip install torch, or name another"):
        Agent(io.BytesIO()).start(there.runtime, there.options, "", {}, str(tmp_path), 1)
    with pytest.raises(MissingDependencyError, match="needs the package torch here too"):
        remote_runtime("pytorch-cpu", {})


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "cuda-graph", "compiled"])
def test_on_a_gpu(tmp_path, mode):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    call = ModuleCall(tiny_task.build(), (tiny_task.inputs(),))
    file = tmp_path / "network.pt2"
    file.write_bytes(exported(call))
    runs = Runs(torch, "cuda", mode, "fp32")
    there = Program(runs, file)
    timed = runs.timed(runs.ready(there.run))
    assert timed() > 0
    wanted, (found,) = call.module(*call.args), torch.utils._pytree.tree_leaves(there.run())
    assert torch.allclose(wanted, found.cpu(), rtol=1e-2, atol=1e-3)
