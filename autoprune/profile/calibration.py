"""What values a network's activations take, found by running it on a few batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.onnx_floats import copy_of, tensor_types

Arrays = Mapping[str, npt.NDArray[np.generic]]

#: More samples than these change the extremes little, and cost time.
MOST_FEEDS = 16


def load_batches(batches: object) -> tuple[object, ...]:
    """Batches of inputs as they are given: a sequence, one array, or a file.

    Args:
        batches: each an array or tensor, a sequence of them in the order of the network's inputs,
            or a mapping by name; or the path of an .npz file with one array for each input, the
            samples along its first dimension.

    Raises:
        ProfilerError: the file can't be read, or it is none of these.
    """
    if isinstance(batches, str | Path):
        try:
            with np.load(batches, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, AttributeError) as error:
            raise ProfilerError(
                f"calibration must be an .npz file with an array for each input; {batches} can't "
                f"be read: {error}"
            ) from error
        return (arrays,)
    if hasattr(batches, "shape"):
        return (batches,)
    if not isinstance(batches, Iterable) or isinstance(batches, Mapping):
        raise ProfilerError(
            f"calibration must be batches of inputs or an .npz file; got {type(batches).__name__}"
        )
    return tuple(batches)


def feeds(batches: Sequence[object], inputs: Arrays) -> list[dict[str, npt.NDArray[np.generic]]]:
    """Batches cut to the shapes and types of a network's inputs.

    Args:
        batches: as `load_batches` gives them; of any number of samples.
        inputs: example inputs of the network by name, samples along the first dimension.

    Returns:
        What to feed, at most `MOST_FEEDS`; a batch with too few samples is repeated.

    Raises:
        ProfilerError: a batch has other inputs, or samples of another shape.
    """
    found: list[dict[str, npt.NDArray[np.generic]]] = []
    for batch in batches:
        arrays = _named(batch, list(inputs))
        count = min(len(a) for a in arrays.values()) if arrays else 0
        size = max((len(a) for a in inputs.values() if a.ndim), default=1)
        if not count:
            raise ProfilerError("a calibration batch must hold a sample at least, got none")
        for start in range(0, max(count - size, 0) + 1, size):
            rows = np.arange(start, start + size) % count
            found.append({name: _like(arrays[name], a, name, rows) for name, a in inputs.items()})
            if len(found) == MOST_FEEDS:
                return found
    return found


def _named(batch: object, names: list[str]) -> dict[str, npt.NDArray[np.generic]]:
    if isinstance(batch, Mapping):
        values: dict[str, Any] = {str(key): value for key, value in batch.items()}
        if set(values) != set(names) and len(values) == len(names):
            values = dict(zip(names, values.values(), strict=True))  # called otherwise in torch
    else:
        each = list(batch) if isinstance(batch, tuple | list) else [batch]
        values = dict(zip(names, each, strict=False)) if len(each) == len(names) else {}
    if set(values) != set(names):
        raise ProfilerError(
            f"a calibration batch must hold the network's inputs {names}; got "
            f"{sorted(values) or type(batch).__name__}"
        )
    return {name: _array(value) for name, value in values.items()}


def _array(value: Any) -> npt.NDArray[np.generic]:
    if hasattr(value, "detach"):  # a tensor of torch, which need not be installed here
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    return array[None] if array.ndim == 0 else array


def _like(
    array: npt.NDArray[np.generic],
    example: npt.NDArray[np.generic],
    name: str,
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.generic]:
    if array.shape[1:] != example.shape[1:]:
        raise ProfilerError(
            f"samples of input {name!r} must be of shape {example.shape[1:]} in calibration "
            f"batches too, got {array.shape[1:]}"
        )
    chosen = array[rows[: len(example)] % len(array)] if example.ndim else array[0]
    return np.ascontiguousarray(chosen, dtype=example.dtype)


def ranges(model: Any, batches: Sequence[Arrays]) -> dict[str, tuple[float, float]]:
    """The least and the largest value of every activation in 32-bit floats.

    Args:
        model: an `onnx.ModelProto`; it is run with onnxruntime on the CPU, as it stands.
        batches: what to feed.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ProfilerError: it can't be run, or gives values that are not finite.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "calibrating needs the package onnxruntime: pip install onnxruntime"
        ) from error
    from onnx import TensorProto, helper

    weights = {t.name for t in model.graph.initializer}
    names = [
        name
        for name, kind in tensor_types(model).items()
        if kind == TensorProto.FLOAT and name not in weights
    ]
    watched = copy_of(model)
    shown = {o.name for o in watched.graph.output} | {i.name for i in watched.graph.input}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in shown
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: dict[str, tuple[float, float]] = {}
    try:
        session = onnxruntime.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs = [o.name for o in session.get_outputs() if o.name in set(names)]
        for feed in batches:
            values = dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
            for name, value in (*feed.items(), *values.items()):
                if value.dtype == np.float32 and value.size:
                    low, high = found.get(name, (0.0, 0.0))
                    # numpy's, which let what is no number through
                    least = np.minimum(low, value.min())
                    found[name] = (float(least), float(np.maximum(high, value.max())))
    except Exception as error:  # whatever the runtime raises belongs to this network
        raise ProfilerError(f"it can't be run to calibrate it: {error}") from error
    wrong = [name for name, pair in found.items() if not np.isfinite(pair).all()]
    if wrong:
        raise ProfilerError(
            f"values in {wrong[0]!r} are not finite on the calibration batches; a network must "
            "give finite values to be quantised"
        )
    return found
