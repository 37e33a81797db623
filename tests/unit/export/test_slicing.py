import numpy as np
import onnx
import pytest
import torch
import zoo
from torch import nn
from zoo_sequence import Attention, Block, Encoder, plain_ffn

from autoprune.core.errors import CandidateError
from autoprune.export import OnnxSlicer, artifacts
from autoprune.export._graphs import Graph, Mismatch, check_same_structure, drop_idle_reshapes
from autoprune.export._matching import random_selection
from autoprune.export.onnx import compare, export_onnx
from autoprune.graph import trace
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.pruning.surgery import apply
from autoprune.testing.fake_profiler import FakeProfiler
from autoprune.testing.profilers import QUICK


def make(name, prune=apply):
    model, inputs = zoo.build(name)
    network = trace(model, inputs)
    return network, OnnxSlicer(network, prune)


@pytest.fixture(scope="module")
def padded():
    return make("resnet_padded")


def assert_slices_match(network, slicer, seeds=range(3)):
    assert slicer.reason == ""
    for seed in seeds:
        selection = random_selection(network, np.random.default_rng(100 + seed))
        pruned = apply(network, selection).eval()
        assert compare(pruned, slicer.slice(selection), network.example_inputs) < 1e-4


def test_zero_padded_shortcuts_follow_which_channels_are_kept(padded):
    assert_slices_match(*padded, seeds=range(6))


# Group counts and depthwise attributes; unequal splits and shuffles; constants of ones whose
# length changes; sizes of heads in reshapes; an index for every channel; heads of one and two
# units; tables that the graph counts up to.
@pytest.mark.parametrize(
    "name",
    ["resnext", "shufflenet_v2", "group_norm", "fused_qkv", "conv1d", "mha", "hf_gpt2", "alibi"],
)
def test_sizes_in_the_graph_are_rewritten(name):
    assert_slices_match(*make(name))


def test_layers_of_two_heads_are_told_apart():
    """How many a layer keeps is one or two: few selections differ in every pair of layers."""
    torch.manual_seed(0)
    blocks = [Block(Attention(16, 2), plain_ffn(16, 8), nn.LayerNorm, 16) for _ in range(4)]
    model = zoo.randomise(Encoder(*blocks)).eval()
    network = trace(model, (torch.randint(0, 20, (2, 6)),))
    heads = [group for group in network.groups if group.units == 2]
    assert len(heads) == 4
    slicer = OnnxSlicer(network, apply)
    assert slicer.reason == ""
    for one in heads:
        selection = {g.name: np.arange(g.units) >= (g is one) for g in network.groups}
        pruned = apply(network, selection).eval()
        assert compare(pruned, slicer.slice(selection), network.example_inputs) < 1e-4


def test_the_sliced_graph_is_the_one_an_export_gives(padded):
    network, slicer = padded
    selection = random_selection(network, np.random.default_rng(7))
    exported = Graph.read(export_onnx(apply(network, selection), network.example_inputs))
    sliced = Graph.read(slicer.slice(selection))
    check_same_structure(sliced, exported)
    for index in range(len(sliced.model.graph.node)):
        ours, theirs = sliced.inputs(index), exported.inputs(index)
        assert {i: a.shape for i, a in ours.items()} == {i: a.shape for i, a in theirs.items()}
    onnx.checker.check_model(sliced.model, full_check=True)
    assert len(slicer.slice(selection)) < len(slicer.dense)


def test_keeping_everything_is_the_dense_model(padded):
    network, slicer = padded
    everything = {g.name: np.ones(g.units, dtype=bool) for g in network.groups}
    assert slicer.slice(everything) == slicer.dense


def test_a_selection_of_another_network_is_refused(padded):
    _, slicer = padded
    with pytest.raises(CandidateError):
        slicer.slice({"nowhere": np.ones(4, dtype=bool)})


def test_artifacts_are_what_profilers_take(padded):
    network, slicer = padded
    selections = [random_selection(network, np.random.default_rng(s)) for s in (1, 2, 2)]
    measured = artifacts(slicer, selections)
    assert measured[0].key == "dense"
    assert measured[3].key == f"{measured[2].key}#2"
    for profiler in (FakeProfiler(), OnnxRuntimeProfiler()):
        results = profiler.measure(measured, QUICK)
        assert [r.ok for r in results] == [True] * 4
    exact = FakeProfiler().measure(measured, QUICK)
    assert exact[1].ratio < 1
    assert exact[2].ratio == exact[3].ratio
    with pytest.raises(ValueError, match="different names"):
        artifacts(slicer, selections, ["a", "a", "b"])
    with pytest.raises(ValueError, match="none of them 'dense'"):
        artifacts(slicer, selections[:1], ["dense"])


def test_a_graph_that_changes_with_its_widths_is_exported_instead():
    class Changing(nn.Module):
        """Adds a multiplication where it is narrower than 8."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.second(x if self.second.in_features == 8 else torch.sigmoid(x))

    torch.manual_seed(0)
    network = trace(Changing().eval(), (torch.randn(2, 4),))

    def prune(network, selection):
        pruned = apply(network, selection)
        pruned.second.in_features = pruned.second.weight.shape[1]
        return pruned

    slicer = OnnxSlicer(network, prune)
    assert "nodes" in slicer.reason
    selection = random_selection(network, np.random.default_rng(0))
    pruned = prune(network, selection).eval()
    assert compare(pruned, slicer.slice(selection), network.example_inputs) < 1e-5


def reshaping(shape):
    """x → Relu → a reshape to what it is, where there is one → Transpose."""
    reshape = [] if shape is None else [onnx.helper.make_node("Reshape", ["a", "shape"], ["b"])]
    last = "a" if shape is None else "b"
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 3]) for n in "xab"]
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 2])
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        *reshape,
        onnx.helper.make_node("Transpose", [last], ["y"], perm=[1, 0]),
    ]
    sizes = [onnx.numpy_helper.from_array(np.array(shape or [1], dtype=np.int64), "shape")]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], [out], sizes, value_info=info[1:])
    return Graph.read(onnx.helper.make_model(graph).SerializeToString())


def test_reshapes_that_change_nothing_are_no_other_structure():
    plain, other = reshaping(None), reshaping([2, -1])
    with pytest.raises(Mismatch, match="nodes"):
        check_same_structure(plain, other)
    drop_idle_reshapes(plain, other)
    check_same_structure(plain, other)
    assert [list(node.input) for node in other.model.graph.node] == [["x"], ["a"]]
    same = reshaping([2, 3])
    drop_idle_reshapes(reshaping([2, 3]), same)
    assert len(same.model.graph.node) == 3


def test_structures_are_compared_node_by_node():
    def graph(build):
        torch.manual_seed(0)
        return Graph.read(export_onnx(build, (torch.randn(2, 4),)))

    plain = graph(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    check_same_structure(plain, graph(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))
    with pytest.raises(Mismatch, match="Relu"):
        check_same_structure(
            plain, graph(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
        )
    with pytest.raises(Mismatch, match="nodes"):
        check_same_structure(plain, graph(nn.Linear(4, 2)))
