"""OpenVINO at the agent on a remote device.

It is sent there as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.agent_running import Profiled, Running, Runtime, Timed, missing
from autoprune.profile.cpu import cpu
from autoprune.profile.openvino_nodes import ProfiledRequest, settings
from autoprune.profile.threads import check_threads
from autoprune.profile.visits import clock_name


class OpenVino(Runtime):
    """OpenVINO on the CPU, which must have a capability for the precision.

    Args:
        threads: of it.
        precision: what the networks compute in.
        hint: OpenVINO's name of the precision.
        capability: that the CPU must have for it.

    Raises:
        ProfilerError: it is not there, or the CPU can't compute so.
    """

    def __init__(self, threads: int, precision: str, hint: str, capability: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ProfilerError(missing("openvino", error)) from error
        check_threads(threads)
        self._cpu_time = threads == 1
        self._core, self._tensor = openvino.Core(), openvino.Tensor
        has = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if capability not in has:
            raise ProfilerError(
                f"the CPU there can't compute in {precision}; it can in {', '.join(has)}"
            )
        self._settings = settings(hint, threads)
        name, details = cpu()
        self.about = {
            "name": name,
            "runtime": "openvino",
            "runtime_version": str(openvino.__version__).partition("-")[0],
            "provider": "cpu",
            "threads": threads,
        }
        self.details = {**details, "clock": clock_name(self._cpu_time)}

    def load(self, model: str, inputs: Mapping[str, Any]) -> Running:
        """As of `Runtime`."""
        return Timed(self._request(model, inputs)[1].infer, cpu_time=self._cpu_time)

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Profiled:
        """As of `Runtime`."""
        return ProfiledRequest(*self._request(model, inputs, PERF_COUNT=True))

    def _request(self, model: str, inputs: Mapping[str, Any], **more: Any) -> tuple[Any, Any]:
        """A compiled network, and a request with its inputs set."""
        with open(model, "rb") as file:
            network = self._core.read_model(file.read())
        compiled = self._core.compile_model(network, "CPU", {**self._settings, **more})
        wanted = {port.get_any_name() for port in compiled.inputs}
        if wanted != set(inputs):
            raise ProfilerError(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, self._tensor(array))
        return compiled, request
