"""The contract of a profiler as checks: run them on one of your own.

::

    from autoprune.testing.profilers import check_profiler

    def test_my_profiler():
        check_profiler(MyProfiler())
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    Measurement,
    MeasuringProtocol,
    ModuleCall,
    Profiler,
)
from autoprune.core.errors import ProfilerError
from autoprune.profile.checked import check_answer, wrong_figure
from autoprune.testing.errors import ContractError as ContractError

#: A call of `measure` that takes longer than this, in seconds, counts as one that hangs.
HANGS_S = 600.0

#: Few short rounds: the checks look at what comes back, not at how exact it is. On a busy machine,
#: where rounds are left out, there are more, until three count.
QUICK = MeasuringProtocol(
    warmup=1, runs=2, min_rounds=3, max_rounds=40, width=1e9, timeout_s=300.0, seed=1
)


def conv_artifact(
    key: str, channels: int, layers: int = 2, size: int = 16, batch: int = 1
) -> Artifact:
    """A network of 3×3 convolutions, each followed by a ReLU, as ONNX.

    Args:
        key: its name.
        channels: output channels of each convolution; the input has 3.
        layers: convolutions.
        size: height and width.
        batch: samples.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, tensor, width = [], [], "x", 3
    for number in range(layers):
        array = rng.standard_normal((channels, width, 3, 3)).astype(np.float32) / (3 * width)
        weights.append(numpy_helper.from_array(array, f"conv{number}.weight"))
        nodes += [
            helper.make_node(
                "Conv",
                [tensor, f"conv{number}.weight"],
                [f"c{number}"],
                name=f"conv{number}",
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"),
        ]
        tensor, width = f"r{number}", channels
    shape = [batch, 3, size, size]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [batch, channels, size, size])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    inputs = {"x": rng.standard_normal(shape).astype(np.float32)}
    arrays = [numpy_helper.to_array(weight).copy() for weight in weights]
    call = partial(_conv_module, arrays, inputs["x"])
    return Artifact(key, model.SerializeToString(), inputs, call=call)


def _conv_module(
    weights: Sequence[npt.NDArray[np.float32]], x: npt.NDArray[np.float32]
) -> ModuleCall:
    """The same network for profilers that run PyTorch modules."""
    import torch

    layers: list[torch.nn.Module] = []
    for weight in weights:
        conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        conv.weight.data = torch.from_numpy(weight)
        layers += [conv, torch.nn.ReLU()]
    return ModuleCall(torch.nn.Sequential(*layers).eval(), (torch.from_numpy(x),))


def check_device(profiler: Profiler) -> None:
    """The device is told, and the same each time."""
    _require(isinstance(profiler, Profiler), "a profiler must have `device` and `measure`")
    device = profiler.device
    _require(isinstance(device, DeviceSpec), f"`device` must be a DeviceSpec, got {device!r}")
    _require(
        bool(device.name and device.runtime and device.runtime_version),
        f"the device's name, runtime and runtime_version must be told, got {device!r}",
    )
    _require(device == profiler.device, "`device` must be the same each time it is asked for")


def check_measures(profiler: Profiler, protocol: MeasuringProtocol = QUICK) -> None:
    """Figures are positive, in order, against the first artifact, and larger for more work."""
    artifacts = [conv_artifact("small", 8), conv_artifact("large", 64, layers=6, size=48)]
    artifacts.append(conv_artifact("small again", 8))
    measurements = _measure(profiler, artifacts, protocol)
    for measurement in measurements:
        _require(measurement.ok, f"{measurement.key!r} must be measured, got {measurement.error}")
        _check_figures(measurement)
    reference, large, _ = measurements
    _require(reference.ratio == 1, f"the reference's ratio must be 1, got {reference.ratio}")
    _require(
        large.ratio > 2, f"800 times the work must take more than twice as long: {large.ratio}"
    )
    _require(_measure(profiler, [], protocol) == [], "measuring nothing must give []")


def check_errors_are_values(profiler: Profiler, protocol: MeasuringProtocol = QUICK) -> None:
    """One network that can't be measured does not end the batch; a bad reference fails all."""
    good = conv_artifact("good", 8)
    rubbish = Artifact("rubbish", b"not an ONNX model", good.inputs)
    unfed = Artifact("unfed", good.onnx, {})
    results = _measure(profiler, [good, rubbish, unfed], protocol)
    _require(results[0].ok, f"the good one must be measured, got {results[0].error}")
    for result in results[1:]:
        _require(
            not result.ok and bool(result.error) and math.isnan(result.latency_ms),
            f"{result.key!r} must have an error and no figure, got {result!r}",
        )
    for result in _measure(profiler, [rubbish, good], protocol):
        _require(not result.ok, "with a reference that fails there are no ratios: all must fail")


def check_time_limit(profiler: Profiler) -> None:
    """With no time at all it still returns, with figures or with errors that say why."""
    protocol = MeasuringProtocol(warmup=1, runs=1, width=1e-9, max_rounds=10**6, timeout_s=0.0)
    artifacts = [conv_artifact("one", 8), conv_artifact("two", 8)]
    for measurement in _measure(profiler, artifacts, protocol):
        _require(
            not measurement.ok or measurement.stopped == "time",
            f"out of time, `stopped` must be 'time' or `error` set, got {measurement!r}",
        )


def check_kernels(profiler: Profiler) -> None:
    """Asked for kernels it gives none (it has no such profile) or plausible ones."""
    artifacts = [conv_artifact("one", 16, layers=3), conv_artifact("two", 16)]
    for measurement in _measure(profiler, artifacts, replace(QUICK, kernels=True)):
        _require(measurement.ok, f"{measurement.key!r} must be measured, got {measurement.error}")
        names = [kernel.name for kernel in measurement.kernels]
        _require(len(set(names)) == len(names), f"kernels must have unique names, got {names}")
        for kernel in measurement.kernels:
            _require(
                math.isfinite(kernel.latency_ms) and kernel.latency_ms >= 0 and bool(kernel.op),
                f"a kernel must have an op and a finite time of at least 0, got {kernel!r}",
            )


def check_profiler(profiler: Profiler) -> None:
    """Every check of this module.

    Raises:
        ContractError: the contract is broken; says where.
    """
    check_device(profiler)
    check_measures(profiler)
    check_errors_are_values(profiler)
    check_time_limit(profiler)
    check_kernels(profiler)


def _measure(
    profiler: Profiler, artifacts: list[Artifact], protocol: MeasuringProtocol
) -> list[Measurement]:
    """Measure in a thread of its own, so that a profiler that hangs is found out."""
    answers: list[list[Measurement]] = []
    errors: list[BaseException] = []

    def measure() -> None:
        try:
            answers.append(profiler.measure(artifacts, protocol))
        except BaseException as error:  # a profiler of anyone's: told in the calling thread
            errors.append(error)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    thread.join(HANGS_S)
    _require(
        not thread.is_alive(),
        f"measure must return (timeout_s was {protocol.timeout_s:g} s); it still ran after "
        f"{HANGS_S:g} s",
    )
    for error in errors:
        raise ContractError(
            "measure must never raise, a failure is a Measurement with `error` set; got "
            f"{type(error).__name__}: {error}"
        ) from error
    (found,) = answers
    try:
        check_answer("the profiler", found, artifacts)
    except ProfilerError as error:
        raise ContractError(str(error)) from error
    for measurement in found:
        wrong = wrong_figure(measurement) if measurement.ok else ""
        _require(not wrong, f"{measurement.key!r} has no error, but {wrong}")
    return found


def _check_figures(measurement: Measurement) -> None:
    _require(
        len(measurement.samples_ms) == len(measurement.reference_ms) > 0,
        "each round's figure must have the reference's beside it: samples_ms and reference_ms",
    )
    _require(
        measurement.stopped in ("interval", "time", "rounds"),
        f"`stopped` must be interval, time or rounds, got {measurement.stopped!r}",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)
