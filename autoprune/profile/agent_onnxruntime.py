"""onnxruntime at the agent on a remote device: sessions are made as on the other side.

It is sent there as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.agent_running import Profiled, Running, Runtime, Timed, missing
from autoprune.profile.onnxruntime_providers import find, runs_on, short
from autoprune.profile.onnxruntime_sessions import Sessions
from autoprune.profile.threads import check_threads
from autoprune.profile.visits import clock_name


class OnnxRuntime(Runtime):
    """onnxruntime with one execution provider.

    Args:
        provider: its name, as a user writes it.
        threads: intra-op threads.
        level: of graph optimisation, as of `Sessions`.
        options: of the provider.
        fallback: whether nodes that it can't run may run on the CPU.

    Raises:
        ProfilerError: it is not there.
    """

    def __init__(
        self, provider: str, threads: int, level: str, options: Mapping[str, str], fallback: bool
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ProfilerError(missing("onnxruntime", error)) from error
        check_threads(threads)
        found = find(provider, onnxruntime.get_available_providers())
        self._sessions = Sessions(onnxruntime, found, options, threads, level, fallback)
        name, details = runs_on(found, options)
        self.gpu = options.get("device_id", "0")
        self.about = {
            "name": name,
            "runtime": "onnxruntime",
            "runtime_version": str(onnxruntime.__version__),
            "provider": short(found),
            "threads": threads,
        }
        self._cpu_time = self._sessions.calling_thread_only
        self.details = {**details, "clock": clock_name(self._cpu_time)}

    def load(self, model: str, inputs: Mapping[str, Any]) -> Running:
        """As of `Runtime`."""
        _, run = self._sessions.make(model, inputs, self._sessions.options())
        return Timed(run, cpu_time=self._cpu_time)

    def elsewhere(self, model: str, inputs: Mapping[str, Any]) -> str:
        """As of `Runtime`: the nodes that the provider leaves to the CPU."""
        return self._sessions.on_the_cpu(model, inputs)

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Profiled:
        """As of `Runtime`."""
        return self._sessions.profiled(model, inputs)
