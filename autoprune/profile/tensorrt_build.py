"""Builds TensorRT engines of ONNX networks; needs no GPU where the library needs none.

One code for TensorRT 10.x, 11.x and TensorRT for RTX. They differ in how precision is told: by
flags of the builder (10.x), or by the types in the network itself (strongly typed: 11.x, RTX).

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import MissingDependencyError, ProfilerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Our name of a precision → flags of a builder whose networks are not strongly typed. What is not
#: quantised is in 16 bits; "fp32" is without the 19 bits (TF32) that are TensorRT's default.
FLAGS: Mapping[str, tuple[str, ...]] = {
    "fp32": (),
    "tf32": ("TF32",),
    "fp16": ("FP16",),
    "bf16": ("BF16",),
    "int8": ("INT8", "FP16"),
    "fp8": ("FP8", "FP16"),
}

#: How each library is installed.
LIBRARIES: Mapping[str, str] = {
    "tensorrt": "pip install tensorrt (on a Jetson it comes with JetPack)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",
}

#: More messages of the library than these say nothing new in an error.
_MESSAGES = 3


def load_library(name: str) -> ModuleType:
    """Import TensorRT or TensorRT for RTX.

    Raises:
        MissingDependencyError: it is not installed, or one of its libraries can't be loaded.
        ProfilerError: it is of a version before 10.
    """
    module = name
    if name == "tensorrt_rtx" and importlib.util.find_spec(name) is None:
        module = "tensorrt_rtx_bindings"  # what the wheels of CUDA 13 call it
    try:
        library = importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"measuring with TensorRT needs the package {name}: {LIBRARIES[name]}; got: {error}"
        ) from error
    version = str(library.__version__)
    if name == "tensorrt" and int(version.partition(".")[0]) < 10:
        raise ProfilerError(f"TensorRT must be of version 10 or later, got {version}")
    return library


def strongly_typed(library: Any) -> bool:
    """Whether precision comes from the network's types, since the builder has no flags for it."""
    return not hasattr(library.BuilderFlag, "FP16")


def has_timing_cache(library: Any) -> bool:
    """Whether the builder times tactics, and so keeps times; the one for RTX compiles later."""
    return "rtx" not in str(library.__name__)


@dataclass(frozen=True)
class BuildSettings:
    """How engines are built.

    Attributes:
        precision: a name in `FLAGS`.
        sparse_weights: let networks that have 2:4 sparse weights run with kernels for those.
        optimization_level: of the builder, 0 (fast build) to 5 (fast engine).

    Raises:
        ProfilerError: a setting is none of these.
    """

    precision: str = "fp32"
    sparse_weights: bool = False
    optimization_level: int = 3

    def __post_init__(self) -> None:
        if self.precision not in FLAGS:
            raise ProfilerError(
                f"precision must be one of {', '.join(FLAGS)}; got {self.precision!r}"
            )
        if not 0 <= self.optimization_level <= 5:
            raise ProfilerError(
                f"optimization_level must be between 0 and 5, got {self.optimization_level}"
            )

    def told(self) -> dict[str, str]:
        """What the device's settings tell of them: where they are not TensorRT's default."""
        told = {"sparse_weights": "true"} if self.sparse_weights else {}
        if self.optimization_level != 3:
            told["optimization_level"] = str(self.optimization_level)
        return told


@dataclass(frozen=True)
class Plan:
    """A built engine.

    Attributes:
        data: the serialised engine.
        cache: the builder's timing cache after it, serialised; b"" where it has none.
        messages: what the builder said, as (severity, text).
    """

    data: bytes
    cache: bytes = b""
    messages: tuple[tuple[str, str], ...] = ()


def build(
    library: Any,
    onnx: bytes,
    inputs: Mapping[str, npt.NDArray[np.generic]],
    settings: BuildSettings,
    *,
    sparse: bool = False,
    cache: bytes = b"",
    capability: str = "",
) -> Plan:
    """Build the engine of an ONNX network.

    Args:
        library: as `load_library` gives it.
        onnx: the serialised model, in its precision's types where networks are strongly typed.
        inputs: example inputs; dimensions that vary are built for their sizes.
        settings: of the builder.
        sparse: whether the network has 2:4 sparse weights, for `settings.sparse_weights`.
        cache: of earlier builds on this device; one that does not fit is left alone.
        capability: "SM89": of a GPU to build for that is not here (TensorRT for RTX alone).

    Raises:
        ProfilerError: the network can't be parsed or built; says what TensorRT says.
    """
    log = logger(library)
    builder = library.Builder(log)
    typed = strongly_typed(library)
    creation = library.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(creation.STRONGLY_TYPED) if typed else 0)
    parser = library.OnnxParser(network, log)
    if not parser.parse(onnx):
        said = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise ProfilerError(f"TensorRT can't parse it: {_first(said)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = settings.optimization_level
    if not typed or settings.precision == "tf32":
        for name in FLAGS[settings.precision]:
            config.set_flag(getattr(library.BuilderFlag, name))
    if settings.precision == "fp32":
        config.clear_flag(library.BuilderFlag.TF32)
    if settings.sparse_weights and sparse:
        config.set_flag(library.BuilderFlag.SPARSE_WEIGHTS)
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, capability), 0)
    _shapes(builder, network, config, inputs)
    cached = has_timing_cache(library)
    if cached:
        _use_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ProfilerError(f"TensorRT can't build it: {log.errors()}")
    after = bytes(config.get_timing_cache().serialize()) if cached else b""
    return Plan(bytes(plan), after, tuple(log.messages))


def _shapes(
    builder: Any, network: Any, config: Any, inputs: Mapping[str, npt.NDArray[np.generic]]
) -> None:
    """An optimisation profile of the example inputs' sizes, where dimensions vary.

    Raises:
        ProfilerError: the network has other inputs, or of other shapes.
    """
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    names = [t.name for t in tensors]
    if set(names) != set(inputs):
        raise ProfilerError(f"its inputs must be {sorted(names)}, got arrays for {sorted(inputs)}")
    profile = builder.create_optimization_profile()
    varies = False
    for tensor in tensors:
        array = inputs[tensor.name]
        shape = tuple(tensor.shape)
        fits = len(shape) == array.ndim and all(
            shape[axis] in (-1, size) for axis, size in enumerate(array.shape)
        )
        if not fits:
            raise ProfilerError(
                f"input {tensor.name!r} must be of shape {shape}, got {array.shape}"
            )
        if tensor.is_shape_tensor:
            values = [int(v) for v in array.ravel()]
            profile.set_shape_input(tensor.name, values, values, values)
            varies = True
        elif -1 in shape:
            profile.set_shape(tensor.name, array.shape, array.shape, array.shape)
            varies = True
    if varies:
        config.add_optimization_profile(profile)


def _use_cache(config: Any, data: bytes) -> None:
    """Begin with a timing cache; with an empty one where it is of another device or version."""
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def combined(library: Any, first: bytes, second: bytes) -> bytes:
    """One timing cache of two; the second where they can't be combined."""
    config = library.Builder(logger(library)).create_builder_config()
    one, other = (config.create_timing_cache(data) for data in (first, second))
    if one is None or other is None or not one.combine(other, ignore_mismatch=False):
        return second
    return bytes(one.serialize())


def logger(library: Any) -> Any:
    """A logger of the library that keeps what it is told, with a method `errors`."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((str(severity).rpartition(".")[2], message))

        def errors(self) -> str:
            """What went wrong, in its own words."""
            return _first([m for s, m in self.messages if s in ("ERROR", "INTERNAL_ERROR")])

    return Log()


def _first(said: list[str]) -> str:
    return " / ".join(dict.fromkeys(said[:_MESSAGES])) or "it does not say why"
