import pytest
import torch
from torch import nn

from autoprune.core.errors import SurgeryError
from autoprune.pruning._batches import as_call, flat_inputs


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
