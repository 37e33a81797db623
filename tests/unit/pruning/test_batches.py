import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autoprune.core.candidate import Candidate
from autoprune.core.errors import SurgeryError
from autoprune.graph import trace
from autoprune.pruning import prune
from autoprune.pruning._batches import as_call, flat_inputs, recut
from autoprune.pruning.fisher import output_power
from autoprune.pruning.importance import scores
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x, mask=None, other=None):
        y = self.a(x)
        if mask is not None:
            y = y * self.b(mask)
        return y if other is None else y + other["q"][0] + other["r"]


def exported(*args, **kwargs):
    return torch.export.export(Masked(), args, kwargs, strict=False)


def batch(size, width=4):
    return torch.zeros(size, width)


def sizes(program, given):
    found = flat_inputs(program, as_call(given)).items()
    return {name: len(value) for name, value in found if value is not None}


@pytest.mark.parametrize(
    "given",
    [
        (batch(1), batch(3)),
        {"x": batch(1), "mask": batch(3)},
        {"mask": batch(3), "x": batch(1)},
    ],
)
def test_inputs_are_matched_by_name_where_they_have_one(given):
    assert sizes(exported(batch(2), batch(2)), given) == {"x": 1, "mask": 3}


def test_keyword_inputs_in_any_order():
    program = exported(mask=batch(2), x=batch(2))
    assert sizes(program, {"x": batch(1), "mask": batch(3)}) == {"x": 1, "mask": 3}
    with pytest.raises(SurgeryError, match="a mapping of these names"):
        flat_inputs(program, as_call((batch(1), batch(3))))  # in which order?
    assert sizes(exported(x=batch(2)), batch(5)) == {"x": 5}


def test_a_mapping_within_in_any_order():
    program = exported(batch(2), None, {"q": [batch(2, 8)], "r": batch(2, 8)})
    given = (batch(1), None, {"r": batch(4, 8), "q": [batch(3, 8)]})
    assert sizes(program, given) == {"x": 1, "other_q_0": 3, "other_r": 4}
    with pytest.raises(SurgeryError, match="without labels"):
        flat_inputs(program, as_call((batch(1), None, {"r": batch(4, 8)})))


@pytest.mark.parametrize(
    "given",
    [batch(1), (batch(1),) * 3, {"x": batch(1), "mask": batch(1), "labels": batch(1)}],
)
def test_too_few_or_too_many(given):
    with pytest.raises(SurgeryError, match=r"the 2 inputs .*\(x, mask\), got [13] "):
        flat_inputs(exported(batch(2), batch(2)), as_call(given))


def test_batches_of_another_size():
    calls = [((torch.arange(5), 7), {"y": torch.ones(5, 2)}), ((torch.arange(2), 7), {})]
    found = recut(calls, 3)
    assert [args[0].tolist() for args, _ in found] == [[0, 1, 2], [3, 4, 0], [0, 1, 0]]
    assert all(args[1] == 7 for args, _ in found)
    assert found[1][1]["y"].shape == (3, 2)
    assert recut(calls, None) is calls


class CountsSamples(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.token = nn.Parameter(torch.ones(1, 1, 6))

    def forward(self, x):
        x = torch.cat([self.token.expand(int(x.shape[0]), -1, -1), x], 1)
        return self.b(self.a(x).relu().mean(1))


def test_a_graph_of_a_fixed_batch_is_refitted_on_batches_of_any_size():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trace(CountsSamples().eval(), torch.randn(4, 5, 6))
        batches = [torch.randn(10, 5, 6), torch.randn(3, 5, 6)]
    candidate = Candidate.of({"a": 12})
    selection = select(
        network, candidate, scores=scores(network, ReconstructionImportance(batches))
    )
    pruned = prune(network, selection)
    with torch.no_grad():
        dense = network.model(batches[0])
        before = (pruned(batches[0]) - dense).norm()
        Reconstructor(network, batches).apply(pruned, selection)
        assert (pruned(batches[0]) - dense).norm() < 0.7 * before
    (node,) = [n for n in network.program.graph.nodes if n.name == "mean"]
    for loss, given in (
        (None, batches),
        (cross_entropy, [(x, torch.arange(3)) for x in batches[1:]]),
    ):
        power = output_power(network, given, [node], channels=[1], loss=loss)
        assert power[node].shape == (32,)
        assert float(power[node].sum()) > 0


def test_a_graph_module_of_a_fixed_batch_takes_any():
    class Wide(CountsSamples):
        def forward(self, x):
            x = torch.cat([self.token.expand(int(x.shape[0]), -1, -1), x], 1)
            y = self.a(x).relu().reshape(-1, x.shape[1], 32)  # a width of its own
            return {"y": self.b(y.mean(1)), "width": self.token}

    network = trace(Wide().eval(), torch.randn(4, 5, 6))
    pruned = prune(network, Candidate.of({"a": 12}))
    assert type(pruned).__name__ == "GraphNetwork"
    x = torch.randn(10, 5, 6)
    with torch.no_grad():
        found = pruned(x)
        single = torch.cat([pruned(x[i : i + 4])["y"] for i in (0, 4, 6)])
    assert found["y"].shape == (10, 3)
    assert torch.allclose(found["y"], single[[*range(8), 10, 11]], atol=1e-6)
    assert torch.equal(found["width"], pruned.token)
