"""ONNX networks in the precision that a device is to compute in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from autoprune.core.device import Artifact
from autoprune.core.errors import ProfilerError
from autoprune.profile.calibration import feeds, load_batches, ranges
from autoprune.profile.onnx_floats import HALVES, to_half
from autoprune.profile.onnx_layers import STAMP, stamp
from autoprune.profile.onnx_quantize import LARGEST, at_least_opset, quantize

_LOG = logging.getLogger("autoprune.profile")


class Converter:
    """Turns networks of 32-bit floats into another precision.

    Latency hardly depends on the scales of a quantised network. So the first network (the dense
    one) is calibrated, and the others, cut from it, take its ranges; one with an activation of
    another name is calibrated by itself.

    Args:
        precision: "fp32" leaves a network as it is; "fp16", "bf16"; "int8", "fp8".
        rest: what is not quantised: "fp32" or "fp16".
        computed: what the runtime computes that in, where it is told to by itself.
        calibration: batches of inputs as `load_batches` takes them; None for the example inputs.
        quantizer: "own" for pairs without biases, as TensorRT wants them; "onnxruntime" for its
            own quantiser, symmetric int8 with a scale for each output channel.
        reduce_range: with onnxruntime's quantiser: weights in 7 of the 8 bits. On a CPU that has
            AVX2 or AVX-512 but no VNNI, sums of two products of all 8 bits overflow 16 bits, and
            are cut off.
        stamped: name every node of a network, and its layer, in "fp32" too.

    Raises:
        ProfilerError: the batches can't be read.
    """

    def __init__(
        self,
        precision: str,
        *,
        rest: str = "fp32",
        computed: str = "",
        calibration: object = None,
        quantizer: str = "own",
        reduce_range: bool = True,
        stamped: bool = False,
    ) -> None:
        self.precision, self._rest, self._quantizer = precision, rest, quantizer
        self._computed = computed or rest
        self._stamped, self._reduce_range = stamped, reduce_range
        self._batches = () if calibration is None else load_batches(calibration)
        self._ranges: dict[str, tuple[float, float]] = {}
        self._seen: set[str] = set()  # tensors of the first network, those of integers too
        self._told = False

    @property
    def details(self) -> dict[str, str]:
        """What the device's details tell of it."""
        if self.precision not in LARGEST:
            return {}
        source = "batches that were given" if self._batches else "the example inputs"
        return {"calibrated_on": source, "not_quantised": self._computed}

    def convert(self, artifact: Artifact) -> Artifact:
        """The network in that precision.

        Raises:
            ProfilerError: it is no ONNX model, or can't be converted; says why.
        """
        if self.precision == "fp32" and not self._stamped:
            return artifact
        model = self._load(artifact.onnx)
        if self.precision in HALVES:
            to_half(model, self.precision)
        elif self.precision != "fp32":
            model = self._quantized(model, artifact)
        return replace(artifact, onnx=model.SerializeToString(), path=None)

    def _load(self, data: bytes) -> Any:
        import onnx
        import onnx.inliner
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            model = onnx.load_from_string(data)
        except DecodeError as error:
            raise ProfilerError(f"it must be an ONNX model: {error}") from error
        if not model.graph.node:
            raise ProfilerError("it must be an ONNX model with nodes, has none")
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        stamp(model.graph)
        return model

    def _quantized(self, model: Any, artifact: Artifact) -> Any:
        layers = {n.name: e.value for n in model.graph.node for e in n.metadata_props
                  if e.key == STAMP}  # fmt: skip
        model = at_least_opset(model)
        for node in model.graph.node:  # the converter of opsets forgets them
            if node.name in layers and not any(e.key == STAMP for e in node.metadata_props):
                entry = node.metadata_props.add()
                entry.key, entry.value = STAMP, layers[node.name]
        known = self._calibrated(model, artifact)
        if self._quantizer == "onnxruntime":
            return _by_onnxruntime(model, known, self._reduce_range)
        quantize(model, known, self.precision)
        if self._rest in HALVES:
            to_half(model, self._rest)
        return model

    def _calibrated(self, model: Any, artifact: Artifact) -> dict[str, tuple[float, float]]:
        made = {name for node in model.graph.node for name in node.output}
        if self._seen and made <= self._seen:
            return self._ranges
        if not self._batches and not self._told:
            self._told = True
            _LOG.warning(
                "no calibration batches were given: scales of %s are taken from the example "
                "inputs, which latency hardly depends on, but accuracy does",
                self.precision,
            )
        found = ranges(model, feeds(self._batches, artifact.inputs) or [dict(artifact.inputs)])
        if not self._seen:
            self._ranges, self._seen = found, made
        return found


def _by_onnxruntime(model: Any, known: dict[str, tuple[float, float]], reduce_range: bool) -> Any:
    """Quantise as `onnxruntime.quantization.quantize_static` does, with ranges that are known."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    data = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: (np.array(low, np.float32), np.array(high, np.float32))
            for name, (low, high) in known.items()
        },
    )
    settings = {"ActivationSymmetric": True, "WeightSymmetric": True}
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                model, True, reduce_range, QuantType.QInt8, QuantType.QInt8, data, [], [],
                sorted({*QLinearOpsRegistry, *QDQRegistry}), settings,
            )  # fmt: skip
            quantizer.quantize_model()
    except Exception as error:  # onnxruntime's quantiser raises what it stumbles over
        raise ProfilerError(
            f"onnxruntime can't quantise it: {type(error).__name__}: {error}"
        ) from error
    return quantizer.model.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the advice of onnxruntime's quantiser, meant for files, off the screen."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def converted(
    converter: Converter, artifacts: Sequence[Artifact]
) -> tuple[list[Artifact], dict[int, str]]:
    """All networks in another precision; those that can't be are told by their number.

    Returns:
        As many artifacts, the ones that can't be converted as they were, and why by number.
    """
    found, errors = [], {}
    for index, artifact in enumerate(artifacts):
        try:
            found.append(converter.convert(artifact))
        except ProfilerError as error:
            found.append(artifact)
            into = converter.precision
            errors[index] = str(error) if into == "fp32" else f"not turned into {into}: {error}"
    return found, errors
