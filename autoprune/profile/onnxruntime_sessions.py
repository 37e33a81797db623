"""onnxruntime's sessions: made, bound to their inputs, and asked where their nodes run.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.onnxruntime_nodes import ProfiledSession
from autoprune.profile.onnxruntime_providers import CPU, KEEP_GRAPH, NVIDIA, node_counts

#: Graph optimisation levels by name → onnxruntime's name of them.
LEVELS: Mapping[str, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


@dataclass(frozen=True)
class Sessions:
    """How sessions are made.

    Attributes:
        ort: the module onnxruntime.
        provider: onnxruntime's name of the execution provider.
        provider_options: of the provider.
        threads: intra-op threads.
        level: a name in `LEVELS`.
        fallback: whether nodes that the provider can't run may run on the CPU.
    """

    ort: ModuleType
    provider: str
    provider_options: Mapping[str, str]
    threads: int
    level: str
    fallback: bool

    def options(self) -> Any:
        """New session options."""
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(
            self.ort.GraphOptimizationLevel, LEVELS[self.level]
        )
        options.log_severity_level = 4  # fatal only: an error is reported as a value
        if not self.fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    @property
    def calling_thread_only(self) -> bool:
        """Whether all of a run happens in the thread that asks for it."""
        return self.threads == 1 and self.provider == CPU

    def make(
        self, model: bytes | str, inputs: Mapping[str, Any], options: Any
    ) -> tuple[Any, Callable[[], object]]:
        """A session and a function that runs it once, with inputs and outputs bound.

        Args:
            model: ONNX, or a file of it.
            inputs: array by name.
            options: session options.

        Raises:
            ProfilerError: the provider could not be set up, or other inputs are wanted.
        """
        session = self.ort.InferenceSession(
            model, options, providers=[(self.provider, dict(self.provider_options))]
        )
        if session.get_providers()[0] != self.provider:
            raise ProfilerError(
                f"it must run on {self.provider}, onnxruntime fell back to "
                f"{session.get_providers()[0]}: the libraries that the provider needs are missing "
                "or of another version; see its page in onnxruntime's documentation"
            )
        wanted = {i.name for i in session.get_inputs()}
        if wanted != set(inputs):
            raise ProfilerError(
                f"its inputs must be {sorted(wanted)}, got arrays for {sorted(inputs)}"
            )
        binding = session.io_binding()
        on_gpu = self.provider in NVIDIA
        index = int(self.provider_options.get("device_id", 0))
        for name, array in inputs.items():
            if on_gpu:
                value = self.ort.OrtValue.ortvalue_from_numpy(array, "cuda", index)
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            if on_gpu:
                binding.bind_output(output.name, "cuda", index)
            else:
                binding.bind_output(output.name)
        return session, lambda: session.run_with_iobinding(binding)

    def profiled(self, model: bytes | str, inputs: Mapping[str, Any]) -> ProfiledSession:
        """A network, to be profiled; arguments as of `make`."""
        make = partial(self.make, model, inputs)
        return ProfiledSession(make, self.options(), keep_graph=self.provider in KEEP_GRAPH)

    def on_the_cpu(self, model: bytes | str, inputs: Mapping[str, Any]) -> str:
        """Which of its nodes run on the CPU instead, in words; "" where none does.

        Args:
            model: as of `make`.
            inputs: likewise.

        Raises:
            ProfilerError: all of them do, so that the provider is not measured.
        """
        if self.provider == CPU:
            return ""
        make = partial(self.make, model, inputs)
        profiled = ProfiledSession(make, self.options(), keep_graph=False)
        profiled.run()
        placed = node_counts(profiled.arguments())
        left = placed.get(CPU, [])
        total = sum(map(len, placed.values()))
        if left and len(left) == total:
            raise ProfilerError(
                f"every node of it runs on the CPU, none on {self.provider}: the provider takes "
                "none of its ops"
            )
        if not left:
            return ""
        shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        return f"{len(left)} of {total} nodes run on the CPU instead of {self.provider}: {shown}"
