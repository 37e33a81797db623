"""Writes networks as ONNX through `torch.onnx.export`, and checks what was written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import ExportError, MissingDependencyError
from autoprune.core.files import write_atomically
from autoprune.export._emptied import without_empty
from autoprune.export._graphs import Mismatch
from autoprune.export._torchlib import shared_registry

#: Largest difference between onnxruntime's output and torch's, relative to the output's scale.
TOLERANCE = 1e-4

#: A protocol buffer can't be larger.
_LIMIT = 2**31 - 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines, log lines and deprecation warnings off the screen."""
    logger = logging.getLogger("torch.onnx")
    level, propagate = logger.level, logger.propagate
    children = [
        logging.getLogger(name) for name in logging.root.manager.loggerDict
        if name.startswith("torch.onnx.")
    ]  # fmt: skip
    levels = [child.level for child in children]
    try:
        for each in (logger, *children):
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        for child, old in zip(children, levels, strict=True):
            child.setLevel(old)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module back into the mode it was in after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def export_onnx(
    model: nn.Module,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None = None,
    path: Path | str | None = None,
    *,
    dynamic_batch: bool = False,
    check: bool = False,
) -> bytes:
    """Write a network as ONNX, in eval mode, BatchNorm folded into the convolutions before it.

    Args:
        model: any module that `torch.export` takes; it is left as it is.
        example_inputs: positional inputs, as a tuple; they fix the shapes.
        example_kwargs: keyword inputs.
        path: also write it here, whole or not at all.
        dynamic_batch: let the first dimension of every input vary; otherwise the file has the
            example's batch size, which lets the runtime optimise more.
        check: run it with onnxruntime and compare with torch.

    Returns:
        The serialised model. Its inputs are named after the parameters of `forward`, of a graph
        module after those of the dense network.

    Raises:
        ExportError: torch can't export it, or onnxruntime's output differs from torch's by more
            than 1e-4 of the output's scale, or the file can't be written.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    inputs, kwargs = tuple(example_inputs), dict(example_kwargs or {})
    dynamic = None
    if dynamic_batch:
        dynamic = _batch_shapes(model, inputs, kwargs)
    with evaluating(model), torch.no_grad():
        data = _export(model, inputs, kwargs, dynamic)
        if check:
            difference = compare(model, data, inputs, kwargs)
            if not difference <= TOLERANCE:
                raise ExportError(
                    "onnxruntime must give the same output as torch to "
                    f"{TOLERANCE:g} of its scale; it differs by {difference:.2g}, so the exported "
                    f"{type(model).__name__} can't be trusted; nothing was written"
                )
    if path is not None:
        write_atomically(path, data, ExportError)
    return data


def _export(
    model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any
) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "writing ONNX needs the packages onnx and onnxscript: pip install onnx onnxscript"
        ) from error
    with _quiet(), shared_registry():
        try:
            program = torch.onnx.export(
                model, inputs, kwargs=kwargs or None, dynamo=True, optimize=True,
                verbose=False, dynamic_shapes=dynamic,
            )  # fmt: skip
        except Exception as error:  # torch raises many kinds, depending on what it stumbles over
            first = str(error).strip().splitlines()
            raise ExportError(
                f"torch.onnx.export must take the network; it refused {type(model).__name__}: "
                f"{type(error).__name__}: {first[0] if first else ''}"
            ) from error
    if program is None:
        raise ExportError(f"torch.onnx.export gave nothing for {type(model).__name__}")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size >= _LIMIT:
        raise ExportError(
            f"a network must be smaller than 2 GiB to be one ONNX file; this one has "
            f"{size / 2**30:.1f} GiB of parameters"
        )
    _rename(program.model, getattr(model, "autoprune_inputs", ()))
    data: bytes = program.model_proto.SerializeToString()
    if any(not parameter.numel() for parameter in model.parameters()):
        with contextlib.suppress(Mismatch):  # then the constants stay as they are
            return without_empty(data)
    return data


def _rename(model: Any, names: Sequence[str]) -> None:
    """Give a graph module's file the input names that the dense network's has.

    Args:
        model: in onnx_ir's form.
        names: of the inputs; where there is another number of them, they stay as they are.
    """
    graph = model.graph
    fixed = graph.initializers.keys() | {value.name for value in graph.outputs}
    if len(graph.inputs) != len(names) or fixed & set(names):
        return
    known = {value.name: value for node in graph for value in node.outputs}
    for value, name in zip(graph.inputs, names, strict=True):
        if name in known:
            known[name].name = f"{name}_inner"
        value.name = name


def _batch_shapes(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`dynamic_shapes` that let every tensor's first dimension vary."""

    def spec(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim:
            return {0: torch.export.Dim.DYNAMIC}
        return None

    shapes = tuple(pytree.tree_map(spec, value) for value in inputs)
    if not kwargs:
        return shapes
    import inspect

    names = list(inspect.signature(model.forward).parameters)
    named = dict(zip(names, shapes, strict=False))
    return named | {name: pytree.tree_map(spec, value) for name, value in kwargs.items()}


def input_arrays(
    onnx: bytes, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any] | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """Example inputs as an ONNX model takes them: input name → array.

    Raises:
        ExportError: the model has another number of inputs than there are tensors.
    """
    import onnx as onnx_module

    graph = onnx_module.load_from_string(onnx).graph
    names = [value.name for value in graph.input]
    leaves = pytree.tree_leaves((tuple(example_inputs), dict(example_kwargs or {})))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(names) != len(tensors):
        raise ExportError(
            f"the ONNX model must have an input for each of the {len(tensors)} tensors in the "
            f"example inputs; it has {len(names)}: {names}"
        )
    return {name: _array(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy knows it by the package that onnx brings along
        import ml_dtypes

        return np.ascontiguousarray(tensor.float().numpy().astype(ml_dtypes.bfloat16))
    return np.ascontiguousarray(tensor.numpy())


def run_onnx(onnx: bytes, inputs: Mapping[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[Any]]:
    """Run a model once with onnxruntime on the CPU, without graph optimisation.

    Raises:
        ExportError: onnxruntime can't load or run it.
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "checking an exported network needs onnxruntime: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        outputs: list[npt.NDArray[Any]] = session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime's errors have no common base
        raise ExportError(
            f"onnxruntime can't run the exported network: {type(error).__name__}: {error}"
        ) from error
    return outputs


def compare(
    model: nn.Module,
    onnx: bytes,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None = None,
) -> float:
    """Largest difference between onnxruntime's outputs and torch's, relative to their scale.

    Args:
        model: in the mode it is to be compared in.
        onnx: what it was exported to.
        example_inputs: positional inputs.
        example_kwargs: keyword inputs.

    Returns:
        The largest over the outputs of max |a - b| / max |b|; infinity where an output is
        missing, has another shape, or is not finite where torch's is.
    """
    with torch.no_grad():
        expected = model(*example_inputs, **dict(example_kwargs or {}))
    tensors = [t for t in pytree.tree_leaves(expected) if isinstance(t, torch.Tensor)]
    outputs = run_onnx(onnx, input_arrays(onnx, example_inputs, example_kwargs))
    if len(outputs) != len(tensors):
        return float("inf")
    worst = 0.0
    for got, tensor in zip(outputs, tensors, strict=True):
        want = tensor.detach().cpu().to(torch.float64).numpy()
        if got.shape != want.shape:
            return float("inf")
        if not want.size:
            continue
        scale = max(float(np.max(np.abs(want))), 1e-12)
        difference = float(np.max(np.abs(got.astype(np.float64) - want))) / scale
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst
