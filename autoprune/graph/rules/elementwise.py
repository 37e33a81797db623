"""Element-wise ops with broadcasting: dimensions that meet are tied."""

from __future__ import annotations

from autoprune.core.workload import Ints
from autoprune.graph.names import words
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value

_UNARY = words(
    "abs acos acosh alias angle asin asinh atan atanh ceil celu clamp clamp_max clamp_min clip "
    "clone contiguous conj cos cosh detach digamma elu erf erfc erfinv exp exp2 expm1 fill float "
    "floor frac gelu half hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan isneginf "
    "isposinf leaky_relu lgamma lift_fresh lift_fresh_copy log log10 log1p log2 log_sigmoid "
    "logical_not logit mish nan_to_num neg negative ones_like positive reciprocal relu relu6 "
    "round rsqrt selu sgn sigmoid sign silu sin sinc sinh softplus softshrink softsign sqrt "
    "square tan tanh tanhshrink threshold to trunc type_as zeros_like full_like bitwise_not "
    "_to_copy zero prims_convert_element_type rrelu resolve_conj resolve_neg"
)

_DROPOUT = words("dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout")

_BINARY = words(
    "add sub subtract rsub mul multiply div divide true_divide floor_divide pow float_power "
    "remainder fmod maximum minimum fmax fmin atan2 hypot copysign xlogy logaddexp logaddexp2 "
    "eq ne lt le gt ge equal not_equal less less_equal greater greater_equal logical_and "
    "logical_or logical_xor bitwise_and bitwise_or bitwise_xor isclose where masked_fill lerp "
    "addcmul addcdiv prelu __and__ __or__ __xor__ __lshift__ __rshift__ copy square_ heaviside"
)

#: Of these, zeros in give zeros out.
_ZERO_KEEPING = {
    *words("abs alias clone contiguous detach float half neg positive relu sgn sign to _to_copy"),
    *words("mul multiply tanh"),
}


def broadcast(op: Op, values: list[Value], shape: tuple[int, ...]) -> Labels:
    """Tie the dimensions of tensors that are broadcast against each other."""
    result: list[Ints | None] = []
    for position, size in enumerate(shape):
        meeting: list[Ints | None] = []
        for value in values:
            dim = position - (len(shape) - value.ndim)
            if dim >= 0 and value.shape[dim] == size:
                meeting.append(value.labels[dim])
        label = meeting[0] if meeting and size != 1 else None
        for other in meeting[1:] if size != 1 else []:
            label = op.unify(label, other) if label is not None or other is not None else None
        result.append(label)
    return tuple(result)


@rule(*_UNARY, *_BINARY, *_DROPOUT)
def elementwise(op: Op) -> Labels:
    """Tie what meets; a scalar is no tensor."""
    values = list(op.tensors())
    op.weight = op.name.rstrip("_") in _ZERO_KEEPING and all(v.weight for v in values)
    if op.name == "prelu" and op["weight"].shape != (1,):
        x, weight = op["self"], op["weight"]
        tied = op.unify(x.labels[1], weight.labels[0])
        return tuple(tied if d == 1 else label for d, label in enumerate(x.labels))
    return broadcast(op, values, op.shape)


@rule("glu")
def glu(op: Op) -> Labels:
    """The two halves meet."""
    x = op.first
    dim = op.dim(op["dim"], x.ndim)
    labels = list(x.labels)
    label = labels[dim]
    if label is not None:
        half = len(label) // 2
        op.cuts.append(label[:half])
        labels[dim] = op.unify(label[:half], label[half:])
    return tuple(labels)
