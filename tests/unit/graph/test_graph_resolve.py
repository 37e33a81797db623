"""Products of dimensions, decided at the end: slicing and reshaping commute."""

from math import prod

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoprune.graph.atoms import Atoms
from autoprune.graph.resolve import resolve
from autoprune.graph.rules import Op, find
from autoprune.graph.values import Value


def view(atoms: Atoms, value: Value, shape: tuple[int, ...]) -> Value:
    op = Op("view", "", {"self": value}, (shape,), atoms)
    return Value(shape, find("view")(op))


def permute(atoms: Atoms, value: Value, order: list[int]) -> Value:
    shape = tuple(value.shape[d] for d in order)
    op = Op("permute", "", {"self": value, "dims": order}, (shape,), atoms)
    return Value(shape, find("permute")(op))


@st.composite
def factorings(draw: st.DrawFn, total: int) -> tuple[int, ...]:
    """A shape with that many elements."""
    shape = []
    while total > 1 and len(shape) < 4:
        divisors = [d for d in range(2, total + 1) if total % d == 0]
        size = draw(st.sampled_from(divisors))
        shape.append(size)
        total //= size
    shape += [total] if total > 1 else []
    shape = draw(st.permutations(shape))
    if draw(st.booleans()):
        shape = [*shape, 1]
    return tuple(shape)


def kept(value: Value, of: np.ndarray, keep: np.ndarray) -> list[np.ndarray]:
    return [
        np.ones(size, dtype=bool) if label is None else keep[of[label]]
        for size, label in zip(value.shape, value.labels, strict=True)
    ]


def cut(array: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    return array[np.ix_(*masks)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_reshaping_what_is_kept_is_keeping_of_what_is_reshaped(data):
    sizes = st.sampled_from([2, 3, 4, 6, 8, 12])
    start = tuple(data.draw(st.lists(sizes, min_size=1, max_size=3), label="start"))
    assume(prod(start) <= 600)
    atoms = Atoms()
    live = [data.draw(st.booleans()) for _ in start]
    assume(any(live))
    labels = tuple(atoms.fresh(n) if on else None for n, on in zip(start, live, strict=True))
    for label in labels:
        if label is not None:
            atoms.produce("layer", label)
    values, arrays, moves = [Value(start, labels)], [np.arange(prod(start)).reshape(start)], []
    for _ in range(data.draw(st.integers(1, 4), label="steps")):
        if data.draw(st.booleans()):
            shape = data.draw(factorings(prod(start)), label="view")
            values.append(view(atoms, values[-1], shape))
            arrays.append(arrays[-1].reshape(shape))
            moves.append(None)
        else:
            order = list(data.draw(st.permutations(range(values[-1].ndim)), label="permute"))
            values.append(permute(atoms, values[-1], order))
            arrays.append(arrays[-1].transpose(order))
            moves.append(order)
        final = values[-1].live()
        if final and data.draw(st.booleans()):
            atoms.freeze(data.draw(st.sampled_from(final)), "drawn")
    classes = resolve(atoms)
    random = np.random.default_rng(data.draw(st.integers(0, 1000), label="seed"))
    keep = classes.frozen | (random.random(len(classes.reason)) < 0.6)
    sliced = cut(arrays[0], kept(values[0], classes.of, keep))
    for value, array, move in zip(values[1:], arrays[1:], moves, strict=True):
        expected = cut(array, kept(value, classes.of, keep))
        sliced = sliced.reshape(expected.shape) if move is None else sliced.transpose(move)
        assert (sliced == expected).all()


def test_a_split_prefers_the_inner_factor_and_a_frozen_one_leaves_the_other():
    for side, size in (("none", 4), ("inner", 3), ("outer", 4)):
        atoms = Atoms()
        channels = atoms.fresh(12)
        atoms.produce("layer", channels)
        value = view(atoms, Value((12,), (channels,)), (3, 4))
        outer, inner = value.labels
        assert outer is not None
        assert inner is not None
        if side != "none":
            atoms.freeze(outer if side == "outer" else inner, "wanted whole")
        classes = resolve(atoms)
        live = classes.of[channels][~classes.frozen[classes.of[channels]]]
        assert len(np.unique(live)) == size


def test_both_factors_frozen_freeze_the_channels_with_the_reason_of_the_outer():
    atoms = Atoms()
    channels = atoms.fresh(12)
    value = view(atoms, Value((12,), (channels,)), (3, 4))
    atoms.freeze(value.labels[1], "width")
    atoms.freeze(value.labels[0], "count")
    classes = resolve(atoms)
    assert {classes.reasons[i] for i in classes.reason[classes.of[channels]]} == {"count"}


def test_what_freezes_one_freezes_all_that_are_tied_to_it():
    atoms = Atoms()
    a, b, c = atoms.fresh(4), atoms.fresh(4), atoms.fresh(4)
    atoms.unify(a, b)
    atoms.unify(b[:2], c[2:])
    atoms.freeze(c, "fixed")
    classes = resolve(atoms)
    assert classes.frozen[classes.of[a]].tolist() == [True, True, False, False]
    assert classes.reasons[classes.reason[classes.of[a[0]]]] == "fixed"


def test_a_repeated_dimension_is_no_choice():
    atoms = Atoms()
    heads = atoms.fresh(4)
    merged = view(atoms, Value((3, 4), (None, heads)), (12,))
    assert merged.labels[0].tolist() == np.tile(heads, 3).tolist()
    back = view(atoms, merged, (3, 4))
    assert back.labels[0] is None
    assert back.labels[1].tolist() == heads.tolist()
    assert atoms.products == []
