"""What this side knows of a runtime on a remote device: the base of each runtime's own class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.device import Artifact, KernelTime, Measurement, MeasuringProtocol
from autoprune.profile.node_times import Source
from autoprune.profile.onnx_precision import Converter, converted
from autoprune.profile.replies import Told

#: Where the agent keeps networks and inputs on the device.
FOLDER = "~/.cache/autoprune"


@dataclass(frozen=True)
class Sent:
    """What is sent of a network.

    Attributes:
        file: that the agent's runtime loads, any bytes.
        inputs: array by name.
        onnx: the network as ONNX, whose nodes are the layers that this side knows; b"" where
            the runtime tells layers by itself.
    """

    file: bytes
    inputs: Mapping[str, npt.NDArray[np.generic]]
    onnx: bytes = b""


class RemoteRuntime:
    """A runtime there: what it is told, what it is sent, and how its kernels are read.

    The base is one of ONNX networks, which are converted here.

    Args:
        runtime: its name at the agent, a key of `agent_runtimes.RUNTIMES`.
        precision: as of `DeviceSpec`.
        options: what the agent's class is made with, as JSON.
        converter: of networks, before they are sent.
        settings: as of `DeviceSpec`.
        details: what the device's details tell besides what the agent does.

    Attributes:
        beside: whether kernels come by `Runtime.kernels` of the agent, profiled beside the
            reference; otherwise by `Runtime.profile`, each network by itself.
        tells_kernels: whether there are any.
        load_s: what loading a network may take at least, where that can be long.
    """

    beside = False
    tells_kernels = True
    load_s = 0.0

    def __init__(
        self,
        runtime: str,
        precision: str,
        options: Mapping[str, Any],
        *,
        converter: Converter | None = None,
        settings: Mapping[str, str] | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        self.runtime, self.precision, self.options = runtime, precision, dict(options)
        self.settings = dict(settings or {})
        self._converter = Converter("fp32") if converter is None else converter
        self._details = dict(details or {})

    @property
    def details(self) -> dict[str, str]:
        """What the device's details tell besides what the agent does."""
        return {**self._converter.details, **self._details}

    def started(self, details: Mapping[str, str]) -> None:
        """Take note of the details that the agent tells when it has started.

        It is called before `details` is asked for, and before any network is made `ready`.
        """

    def ready(self, artifacts: Sequence[Artifact]) -> tuple[list[Sent], dict[int, str]]:
        """What is sent of networks.

        Returns:
            Of each network, and by number why one can't be sent.
        """
        found, errors = converted(self._converter, artifacts)
        return [Sent(a.onnx, a.inputs, a.onnx) for a in found], errors

    def profiled(
        self,
        load: Callable[[int], Source],
        measured: Sequence[Measurement],
        protocol: MeasuringProtocol,
    ) -> list[Measurement]:
        """Measurements with the kernels of networks that are profiled each by itself.

        Args:
            load: a network by its number, to be profiled there.
            measured: of each; the first is the reference, and is `ok`.
            protocol: how they were measured.
        """
        raise NotImplementedError

    def kernels(self, told: Sequence[Told], sent: Sent) -> tuple[KernelTime, ...]:
        """The kernels of a network that was profiled beside the reference, their times as told.

        Args:
            told: by the agent.
            sent: the network.
        """
        return tuple(each.kernel for each in told)
