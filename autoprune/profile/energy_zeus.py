"""Energy counters of CPUs (RAPL) and GPUs (NVML), found and opened by zeus.

Zeus finds the counters, maps CUDA_VISIBLE_DEVICES and asks its daemon where the user has no
permission. CPU counters that this process may read are read here: zeus watches each for
wrap-around in a process of its own, which would run while networks are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.energy import MeterError, Unwrapped

_INSTALL = "pip install 'autoprune[energy]'"


def _devices() -> Any:
    try:
        import zeus.device
    except ImportError as error:
        raise MissingDependencyError(
            f"reading energy counters needs the package zeus: {_INSTALL}"
        ) from error
    return zeus.device


class RaplMeter:
    """The CPU packages' energy, and their memory's where it has a counter.

    Running Average Power Limit counters (Intel SDM volume 3, 15.10; AMD has the same) of the whole
    machine: what other processes and idle cores draw is included.

    Raises:
        MissingDependencyError: zeus is not installed.
        ProfilerError: there are no such counters, or they may not be read; says what to do.
    """

    name = "rapl"
    #: It reads this machine, whatever is measured.
    host = True
    #: The counters move about every millisecond.
    resolution_s = 0.001

    def __init__(self) -> None:
        device = _devices()
        from zeus.exception import ZeusBaseError

        try:
            cpus = list(device.get_cpus().cpus)
        except ZeusBaseError as error:
            raise ProfilerError(_rapl_missing(error)) from error
        self._totals: list[Unwrapped] = []
        zones = []
        for number, cpu in enumerate(cpus):
            for what, read, limit in _zones(cpu, number):
                zones.append(what)
                self._totals.append(Unwrapped(read, limit, f"the RAPL counter {what}"))
        if not zones:
            raise ProfilerError("RAPL has no counter of a CPU package on this machine")
        #: What is counted, for people.
        self.covers = f"{', '.join(zones)} (RAPL): the whole processor, idle power included"
        self.read_mj()

    def read_mj(self) -> float:
        """The sum of the counters, wrap-around undone, in millijoules."""
        return sum(total() for total in self._totals)


def _zones(cpu: Any, number: int) -> list[tuple[str, Callable[[], float], float | None]]:
    """A CPU's counters: name, function that reads millijoules, where it wraps around."""
    package = getattr(cpu, "rapl_file", None)
    if package is None:  # read by zeus's daemon, which undoes wrap-around
        return [(f"cpu {number}", lambda: _daemon(cpu), None)]
    if package.name == "psys":  # the whole platform, packages included: they would count twice
        return []
    files = [package] if cpu.dram is None else [package, cpu.dram]
    names = [package.name, f"{package.name} dram"]
    return [
        (name, _reader(Path(file.energy_uj_path)), float(file.max_energy_range_uj) / 1e3)
        for name, file in zip(names, files, strict=False)
    ]


def _daemon(cpu: Any) -> float:
    found = cpu.get_total_energy_consumption()
    return float(found.cpu_mj) + float(found.dram_mj or 0.0)


def _reader(path: Path) -> Callable[[], float]:
    return lambda: float(path.read_text()) / 1e3


def _rapl_missing(error: Exception) -> str:
    from zeus.device.cpu.common import ZeusCPUNoPermissionError

    if isinstance(error, ZeusCPUNoPermissionError):
        return (
            "the CPU's energy counters (RAPL) may be read by root alone here: allow it with "
            "'sudo chmod -R a+r /sys/class/powercap/intel-rapl/' (until the next start), or run "
            "zeus's daemon and set ZEUSD_SOCK_PATH"
        )
    return (
        f"this machine shows no energy counters of its CPU (RAPL): {error} Virtual machines, most "
        "containers and ARM processors have none; use a meter of your own, or power_w (energy is "
        "then modelled)"
    )


class NvmlMeter:
    """A GPU's energy, by the driver's own total (NVML).

    The whole board: memory, and what it draws when idle, are included.

    Args:
        index: of the GPU, among those that CUDA_VISIBLE_DEVICES shows.

    Raises:
        MissingDependencyError: zeus is not installed.
        ProfilerError: there is no such GPU, or it has no counter; says what to do.
    """

    name = "nvml"
    host = True
    #: Drivers bring the total up to date every 20 to 100 ms.
    resolution_s = 0.1

    def __init__(self, index: int = 0) -> None:
        device = _devices()
        from zeus.exception import ZeusBaseError

        try:
            gpus = list(device.get_gpus().gpus)
        except ZeusBaseError as error:
            raise ProfilerError(
                f"no GPU's energy can be read here ({error}); NVIDIA's driver must be installed "
                "(nvidia-smi shows it)"
            ) from error
        if not 0 <= index < len(gpus):
            raise ProfilerError(
                f"index of the meter nvml must be one of the {len(gpus)} GPUs, 0 to "
                f"{len(gpus) - 1}; got {index}"
            )
        self._gpu = gpus[index]
        self._error = ZeusBaseError
        try:
            name, counts = self._gpu.get_name(), self._gpu.supports_get_total_energy_consumption()
        except ZeusBaseError as error:
            raise ProfilerError(f"GPU {index} can't be asked for its energy: {error}") from error
        if not counts:
            raise ProfilerError(
                f"GPU {index} ({name}) has no energy counter: NVIDIA's have one from Volta on; "
                "use a meter of your own, or power_w (energy is then modelled)"
            )
        self.covers = f"{name} (NVML): the whole board, idle power included"

    def read_mj(self) -> float:
        """The driver's total, in millijoules."""
        try:
            return float(self._gpu.get_total_energy_consumption())
        except self._error as error:
            raise MeterError(f"the GPU's energy can't be read: {error}") from error
