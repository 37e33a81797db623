"""The runtimes of the agent on a remote device: networks loaded, to be timed or profiled.

It is sent there as it is: Python 3.9, numpy and the runtime, and the modules sent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoprune.profile.onnxruntime_nodes import ProfiledSession
from autoprune.profile.openvino_nodes import ProfiledRequest


class Failed(Exception):
    """What is told to the other side as an error of this one request."""


class OnnxRuntime:
    """onnxruntime, one execution provider, at a level of its graph optimisation."""

    def __init__(self, provider: str, threads: int, level: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Failed(f"needs onnxruntime (pip install onnxruntime) there: {error}") from error
        available = onnxruntime.get_available_providers()
        names = {p.replace("ExecutionProvider", "").lower(): p for p in available}
        if provider not in names:
            raise Failed(
                f"onnxruntime there has no provider {provider!r}; it has {', '.join(sorted(names))}"
            )
        self.ort, self.provider, self.threads = onnxruntime, names[provider], threads
        self.level = getattr(onnxruntime.GraphOptimizationLevel, level)
        self.calling_thread_only = provider == "cpu" and threads == 1
        self.keeps_graph = provider in ("cpu", "cuda")  # the others compile parts of it
        self.about = {
            "runtime": "onnxruntime",
            "runtime_version": onnxruntime.__version__,
            "provider": provider,
            "precision": "fp32",
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that runs the network once."""
        return self.session(model, inputs, self.options())[1]

    def profile(self, model: str, inputs: Mapping[str, Any]) -> ProfiledSession:
        """The network, to be profiled."""

        def make(options: Any) -> tuple[Any, Callable[[], Any]]:
            return self.session(model, inputs, options)

        return ProfiledSession(make, self.options(), keep_graph=self.keeps_graph)

    def options(self) -> Any:
        """New session options."""
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self.level
        options.log_severity_level = 4
        return options

    def session(
        self, model: str, inputs: Mapping[str, Any], options: Any
    ) -> tuple[Any, Callable[[], Any]]:
        """A session, and a function that runs it once."""
        session = self.ort.InferenceSession(model, options, providers=[self.provider])
        wanted = {i.name for i in session.get_inputs()}
        if wanted != set(inputs):
            raise Failed(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)

        def run() -> None:
            session.run_with_iobinding(binding)

        return session, run


class OpenVino:
    """OpenVINO on the CPU, which must have a capability for the precision."""

    def __init__(self, threads: int, precision: str, hint: str, capability: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise Failed(f"needs openvino (pip install openvino) there: {error}") from error
        self.calling_thread_only = threads == 1
        self.core, self.tensor = openvino.Core(), openvino.Tensor
        has = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if capability not in has:
            raise Failed(f"the CPU there can't compute in {precision}; it can in {', '.join(has)}")
        self.settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.about = {
            "runtime": "openvino",
            "runtime_version": openvino.__version__.partition("-")[0],
            "provider": "cpu",
            "precision": precision,
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that runs the network once."""
        run: Callable[[], Any] = self.request(model, inputs)[1].infer
        return run

    def profile(self, model: str, inputs: Mapping[str, Any]) -> ProfiledRequest:
        """The network, to be profiled."""
        return ProfiledRequest(*self.request(model, inputs, PERF_COUNT=True))

    def request(self, model: str, inputs: Mapping[str, Any], **more: Any) -> tuple[Any, Any]:
        """A compiled network, and a request with its inputs set."""
        with open(model, "rb") as file:
            network = self.core.read_model(file.read())
        compiled = self.core.compile_model(network, "CPU", {**self.settings, **more})
        wanted = {port.get_any_name() for port in compiled.inputs}
        if wanted != set(inputs):
            raise Failed(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, self.tensor(array))
        return compiled, request
