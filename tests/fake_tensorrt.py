"""A small TensorRT: it parses ONNX, "builds" engines of it, and its runs take time by their MACs.

Only what the profiler calls, with the names and the signatures of TensorRT's Python API. Its
graphs are fused as TensorRT fuses: an activation goes into the op before it.
"""

import enum
import json
import math
import types
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import numpy as np
import onnx

#: Milliseconds that a launch takes, and milliseconds for a MAC.
LAUNCH_MS, MAC_MS = 0.004, 2e-8


class Severity(enum.Enum):
    ERROR = 1
    INFO = 3


class ILogger:
    def __init__(self):
        self.begun = True


class IProfiler:
    def __init__(self):
        self.begun = True


class HostMemory(bytes):
    pass


class Tensor:
    is_shape_tensor = False

    def __init__(self, name, shape):
        self.name, self.shape = name, shape


class Network:
    def __init__(self, flags):
        self.flags, self.model = flags, None

    @property
    def _inputs(self):
        weights = {t.name for t in self.model.graph.initializer}
        return [i for i in self.model.graph.input if i.name not in weights]

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        value = self._inputs[index]
        dims = value.type.tensor_type.shape.dim
        return Tensor(
            value.name, tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
        )


class OnnxParser:
    def __init__(self, network, log):
        self.network, self.said, self.log = network, [], log

    def parse(self, data):
        try:
            model = onnx.load_from_string(data)
            onnx.checker.check_model(model)
        except Exception as error:
            said = f"not ONNX: {error}"
            self.said = [types.SimpleNamespace(desc=lambda: said)]
            return False
        self.network.model = model
        return True

    num_errors = property(lambda self: len(self.said))

    def get_error(self, index):
        return self.said[index]


class TimingCache:
    def __init__(self, data):
        self.tactics = set(json.loads(data)) if data else set()

    def combine(self, other, ignore_mismatch):
        self.tactics |= other.tactics
        return True

    def serialize(self):
        return HostMemory(json.dumps(sorted(self.tactics)).encode())


class Config:
    def __init__(self):
        self.flags, self.profiles, self.cache = {"TF32"}, [], None

    def set_flag(self, flag):
        self.flags.add(flag.name)

    def clear_flag(self, flag):
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data):
        return None if data.startswith(b"other") else TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class OptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        self.shapes[name] = (low, best, high)


def macs(model):
    """Of each node, by its output, with shapes inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output, *graph.input)
    }
    weights = {t.name: list(t.dims) for t in graph.initializer}
    behind = {n.output[0]: n.input[0] for n in graph.node if "Linear" in n.op_type}
    found = {}
    for node in graph.node:
        count = math.prod(shapes.get(node.output[0], [1])) / 100
        if node.op_type == "Conv":
            name = node.input[1]
            while name in behind:
                name = behind[name]
            count = math.prod(shapes[node.output[0]]) * math.prod(weights[name][1:])
        found[node.output[0]] = count
    return found, shapes


class Builder:
    def __init__(self, log):
        assert log.begun
        self.log = log

    def create_network(self, flags=0):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return OptimizationProfile()

    def build_serialized_network(self, network, config):
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        for profile in config.profiles:
            for value in model.graph.input:
                for dim, size in zip(
                    value.type.tensor_type.shape.dim,
                    profile.shapes.get(value.name, [[], [], []])[1],
                    strict=False,
                ):
                    dim.dim_value = size
        if any(n.op_type == "Erf" for n in model.graph.node):
            self.log.log(Severity.ERROR, "no implementation of Erf")
            return None
        counts, shapes = macs(model)
        layers, times = [], {}
        for node in model.graph.node:
            if node.op_type == "Relu" and layers:
                layers[-1]["Name"] += f" + {node.name}"
                layers[-1]["Metadata"] += f"\x1f[ONNX Layer: {node.name}]"
                continue
            layers.append(
                {
                    "Name": node.name,
                    "LayerType": "CaskConvolution" if node.op_type == "Conv" else "kgen",
                    "Inputs": [
                        {"Name": n, "Dimensions": shapes.get(n, [])} for n in node.input[:1]
                    ],
                    "Outputs": [{"Name": n, "Dimensions": shapes.get(n, [])} for n in node.output],
                    "Metadata": f"[ONNX Layer: {node.name}]",
                }
            )
            times[len(layers) - 1] = counts[node.output[0]] * MAC_MS
        if config.cache is not None:
            config.cache.tactics |= {layer["Name"] for layer in layers}
        tensors = [
            {"name": v.name, "input": v in list(network._inputs), "shape": shapes[v.name]}
            for v in (*network._inputs, *model.graph.output)
        ]
        plan = {
            "layers": layers,
            "times": [times[i] + LAUNCH_MS for i in range(len(layers))],
            "tensors": tensors,
            "flags": sorted(config.flags),
            "typed": network.flags,
        }
        return HostMemory(json.dumps(plan).encode())


class Inspector:
    def __init__(self, plan):
        self.plan, self.execution_context = plan, None

    def get_engine_information(self, format):
        return json.dumps({"Layers": self.plan["layers"], "Bindings": []})


class Context:
    #: Contexts that were run since the list was cleared, for `fake_cuda`.
    ran: list = []  # noqa: RUF012

    def __init__(self, plan):
        self.plan, self.profiler, self.addresses = plan, None, {}
        self.shapes = {t["name"]: t["shape"] for t in plan["tensors"]}

    def set_input_shape(self, name, shape):
        return list(shape) == self.shapes[name]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return isinstance(pointer, int)

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def execute_async_v3(self, stream):
        if set(self.addresses) != set(self.shapes):
            return False
        Context.ran.append(self)
        if self.profiler is not None:
            for layer, time in zip(self.plan["layers"], self.plan["times"], strict=True):
                self.profiler.report_layer_time(layer["Name"], time)
        return True


class Engine:
    def __init__(self, plan):
        self.plan = plan
        self.num_io_tensors = len(plan["tensors"])

    def get_tensor_name(self, index):
        return self.plan["tensors"][index]["name"]

    def get_tensor_mode(self, name):
        found = next(t for t in self.plan["tensors"] if t["name"] == name)
        return TensorIOMode.INPUT if found["input"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(itemsize=4)

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def create_execution_context(self):
        return Context(self.plan)

    def create_engine_inspector(self):
        return Inspector(self.plan)


class Runtime:
    def __init__(self, log):
        self.log = log

    def deserialize_cuda_engine(self, data):
        return Engine(json.loads(data))


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


def api(version):
    """What the module has, as of a version: before 11 its builder has flags for precisions."""
    flags = ["TF32", "SPARSE_WEIGHTS"]
    if version.startswith("10"):
        flags += ["FP16", "BF16", "INT8", "FP8"]
    return {
        "__version__": version,
        "BuilderFlag": enum.Enum("BuilderFlag", flags),
        "NetworkDefinitionCreationFlag": enum.IntEnum(
            "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        ),
        "ProfilingVerbosity": enum.Enum("ProfilingVerbosity", ["DETAILED"]),
        "LayerInformationFormat": enum.Enum("LayerInformationFormat", ["JSON"]),
        "nptype": lambda kind: np.float32,
        "ILogger": ILogger,
        "IProfiler": IProfiler,
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "Runtime": Runtime,
        "TensorIOMode": TensorIOMode,
        "TensorLocation": TensorLocation,
    }


def library(version="10.13.0", name="tensorrt"):
    """The module."""
    module = module_from_spec(ModuleSpec(name, None))
    vars(module).update(api(version))
    return module


def install(folder, version="10.13.0", name="tensorrt"):
    """Files of the module, and of `fake_cuda` as CUDA's bindings, for another process.

    Returns:
        What its PYTHONPATH must be.
    """
    module = f"from fake_tensorrt import api\n\nglobals().update(api({version!r}))\n"
    cuda = (
        "from fake_cuda import Runtime\n\nruntime = Runtime()\n\n\n"
        "def __getattr__(name):\n    return getattr(runtime, name)\n"
    )
    for path, code in ((f"{name}.py", module), ("cuda/bindings/runtime.py", cuda)):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    return f"{folder}:{Path(__file__).parent}"
