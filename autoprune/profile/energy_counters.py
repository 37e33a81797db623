"""Energy counters read with nothing but Python: by the agent, on the device that it runs on.

`energy_zeus` reads the same on this machine. It is sent to remote devices as it is, as part of the
agent.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.energy import MeterError, Unwrapped
from autoprune.profile.energy_jetson import JetsonMeter

#: Where Linux shows RAPL's counters.
POWERCAP = "/sys/class/powercap"

#: The library of NVIDIA's driver.
NVML = "libnvidia-ml.so.1"


class RaplCounters:
    """The CPU packages' energy, and their memory's where it has a counter.

    Running Average Power Limit counters (Intel SDM volume 3, 15.10; AMD has the same), as Linux
    shows them: of the whole machine, idle cores and other processes included.

    Args:
        folder: where they are; another one where a container sees the system's elsewhere.

    Raises:
        ProfilerError: there are none, or they may not be read; says what to do.
    """

    name = "rapl"
    #: The counters move about every millisecond.
    resolution_s = 0.001

    def __init__(self, folder: str = POWERCAP) -> None:
        self._totals = []
        zones = []
        # Zones with another prefix (intel-rapl-mmio) count the same packages once more.
        for zone in sorted(Path(folder).glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text(encoding="utf-8").strip()
                if not name.startswith("package") and name != "dram":
                    continue  # a part of a package, or the whole platform: it would count twice
                limit = float((zone / "max_energy_range_uj").read_text()) / 1e3
                read = _reader(zone / "energy_uj")
                read()
            except PermissionError as error:
                raise ProfilerError(
                    "the CPU's energy counters (RAPL) may be read by root alone there: allow it "
                    f"with 'sudo chmod -R a+r {folder}/intel-rapl/' (until the next start)"
                ) from error
            except (OSError, ValueError) as error:
                raise ProfilerError(f"the RAPL counter {zone} can't be read: {error}") from error
            zones.append(name)
            self._totals.append(Unwrapped(read, limit, f"the RAPL counter {zone.name}"))
        if not zones:
            raise ProfilerError(
                f"no energy counter of a CPU (RAPL) is shown in {folder}: virtual machines, most "
                "containers and ARM processors have none; use power_w (energy is then modelled)"
            )
        #: What is counted, for people.
        self.covers = f"{', '.join(zones)} (RAPL): the whole processor, idle power included"

    def read_mj(self) -> float:
        """The sum of the counters, wrap-around undone, in millijoules."""
        return sum(total() for total in self._totals)


def _reader(path: Path) -> Callable[[], float]:
    return lambda: float(path.read_text()) / 1e3


class NvmlCounter:
    """A GPU's energy, by the driver's own total (NVML's nvmlDeviceGetTotalEnergyConsumption).

    The whole board: memory, and what it draws when idle, are included.

    Args:
        index: of the GPU, as nvidia-smi counts.
        library: NVIDIA's; its path, where the loader does not find it.

    Raises:
        ProfilerError: there is no such GPU, or it has no counter; says what to do.
    """

    name = "nvml"
    #: Drivers bring the total up to date every 20 to 100 ms.
    resolution_s = 0.1

    def __init__(self, index: int = 0, library: str = NVML) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise ProfilerError(
                f"no GPU's energy can be read: {error}. NVIDIA's driver must be installed "
                "(nvidia-smi shows it); a Jetson is read by the meter jetson"
            ) from error
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        label = ctypes.create_string_buffer(96)
        try:
            self._call("nvmlInit_v2")
            at = ctypes.c_uint(index)
            self._call("nvmlDeviceGetHandleByIndex_v2", at, ctypes.byref(self._handle))
            self._call("nvmlDeviceGetName", self._handle, label, ctypes.c_uint(len(label)))
        except MeterError as error:
            raise ProfilerError(
                f"there must be a GPU of index {index}, as nvidia-smi counts: {error}"
            ) from error
        name = label.value.decode("utf-8", "replace")
        try:
            self.read_mj()
        except MeterError as error:
            raise ProfilerError(
                f"GPU {index} ({name}) has no energy counter ({error}): NVIDIA's have one from "
                "Volta on, a Jetson is read by the meter jetson; else use power_w (energy is then "
                "modelled)"
            ) from error
        #: What is counted, for people.
        self.covers = f"{name} (NVML): the whole board, idle power included"

    def read_mj(self) -> float:
        """The driver's total, in millijoules.

        Raises:
            MeterError: the driver does not tell it.
        """
        total = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, ctypes.byref(total))
        return float(total.value)

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise MeterError(f"this driver has no {function}: it is too old") from error
        if status:
            said = self._library.nvmlErrorString(status).decode("utf-8", "replace")
            raise MeterError(f"{function} says: {said}")


#: The meters that read the machine that they run on with nothing but Python.
METERS: Mapping[str, Callable[..., Any]] = {
    "jetson": JetsonMeter,
    "nvml": NvmlCounter,
    "rapl": RaplCounters,
}
