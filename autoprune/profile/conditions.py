"""What a device's speed depends on besides the network: clocks, their limits, temperature.

Read where Linux and NVIDIA's driver tell it, left out where they don't; nothing is changed. It is
sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.profile.nvidia_smi import number

if TYPE_CHECKING:
    from autoprune.core.device import DeviceSpec, Profiler

#: Kinds of thermal zones and hardware monitors that tell a processor's temperature.
_ZONES = ("x86_pkg_temp", "cpu", "soc")
_MONITORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")

#: Entries of a GPU's conditions → nvidia-smi's name of them.
_GPU = {
    "driver": "driver_version",
    "gpu_temperature_c": "temperature.gpu",
    "gpu_clock_mhz": "clocks.sm",
    "gpu_clock_max_mhz": "clocks.max.sm",
    "gpu_power_limit_w": "power.limit",
}

#: Those of its applications clocks, asked for apart: newer drivers may not know them any more.
_APPLICATIONS = {
    "gpu_clock_setting_mhz": "clocks.applications.graphics",
    "gpu_clock_default_mhz": "clocks.default_applications.graphics",
}

#: What Linux calls the GPU of a Jetson among the devices whose clock it scales.
_JETSONS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")


def conditions(device: DeviceSpec) -> dict[str, str]:
    """What can be read now of a device, if it is this machine's processor or a GPU here."""
    which = device.settings.get("device_id", device.details.get("gpu", "0"))
    return conditions_of(device.name, device.runtime, device.provider, which)


def conditions_by(profiler: Profiler) -> dict[str, str]:
    """What can be read now of a profiler's device, by itself where it has `conditions()`.

    Raises:
        ProfilerError: the profiler can't tell.
    """
    own = getattr(profiler, "conditions", None)
    if own is not None:
        return dict(own())
    return {} if getattr(profiler, "remote", False) else conditions(profiler.device)


def conditions_of(name: str, runtime: str, provider: str, gpu_index: str = "0") -> dict[str, str]:
    """As `conditions`, of a device's name, runtime and provider as `DeviceSpec` has them."""
    from autoprune.profile.cpu import cpu

    found = {**cpu_clocks(), **cpu_now()} if name == cpu()[0] else {}
    if provider.startswith(("cuda", "tensorrt", "nvtensorrt")) or runtime == "tensorrt":
        found.update(gpu(gpu_index) or jetson_gpu())
    return found


def cpu_clocks(root: Path = Path("/sys")) -> dict[str, str]:
    """The clocks' settings: governor, limits, boost, and whether they are locked.

    Args:
        root: where sysfs is.
    """
    found = {}
    folders = sorted((root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = {text for f in folders if (text := _text(f / "scaling_governor"))}
    if governors:
        found["governor"] = ", ".join(sorted(governors))
    lowest = [int(t) for f in folders if (t := _text(f / "scaling_min_freq")).isdigit()]
    highest = [int(t) for f in folders if (t := _text(f / "scaling_max_freq")).isdigit()]
    if lowest and len(lowest) == len(highest):
        low, high = min(lowest) // 1000, max(highest) // 1000
        found["clock_limits_mhz"] = f"{low} to {high}"
        found["clocks_locked"] = "yes" if low == high else "no"
    boost = _text(root / "devices/system/cpu/cpufreq/boost")
    no_turbo = _text(root / "devices/system/cpu/intel_pstate/no_turbo")
    if boost or no_turbo:
        found["boost"] = "on" if boost == "1" or no_turbo == "0" else "off"
        if found["boost"] == "on" and "clocks_locked" in found:
            found["clocks_locked"] = "no"  # boost goes beyond the limits, as heat allows
    return found


def cpu_now(root: Path = Path("/sys")) -> dict[str, str]:
    """The processor's clock and temperature at this moment.

    Args:
        root: where sysfs is.
    """
    found = {}
    folders = sorted((root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    clocks = [int(t) // 1000 for f in folders if (t := _text(f / "scaling_cur_freq")).isdigit()]
    if clocks:
        found["clock_mhz"] = f"{min(clocks)} to {max(clocks)}"
    zones = (root / "class/thermal").glob("thermal_zone*")
    degrees = [_text(z / "temp") for z in zones if _text(z / "type").lower().startswith(_ZONES)]
    monitors = (root / "class/hwmon").glob("hwmon*")
    degrees += [_text(m / "temp1_input") for m in monitors if _text(m / "name") in _MONITORS]
    known = [int(text) / 1000 for text in degrees if text.lstrip("-").isdigit()]
    if known:
        found["temperature_c"] = f"{max(known):g}"
    return found


def gpu(which: str = "0", *, command: Sequence[str] = ("nvidia-smi",)) -> dict[str, str]:
    """Driver, clocks and temperature of an NVIDIA GPU; {} where nvidia-smi does not tell.

    `gpu_clocks_locked` is "yes" where applications clocks are set to others than the default: the
    driver then boosts no more (NVML, `nvmlDeviceSetApplicationsClocks`). It is "unknown"
    otherwise: a lock by `nvidia-smi --lock-gpu-clocks` can be set, but not read.

    Args:
        which: its number, as CUDA counts, or its UUID.
        command: how nvidia-smi is called.
    """
    found = _asked(_GPU, which, command)
    if not found:
        return {}
    found.update(_asked(_APPLICATIONS, which, command))
    set_to, default = (found.get(name, "") for name in _APPLICATIONS)
    found["gpu_clocks_locked"] = "yes" if set_to and default and set_to != default else "unknown"
    return found


def _asked(fields: Mapping[str, str], which: str, command: Sequence[str]) -> dict[str, str]:
    """What nvidia-smi tells of some fields; {} where it tells nothing, or does not know one."""
    if shutil.which(command[0]) is None:
        return {}
    query = f"--query-gpu={','.join(fields.values())}"
    asked = [*command, query, "--format=csv,noheader,nounits", f"--id={number(which)}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(fields):
        return {}
    # What a GPU does not tell stands in brackets: [N/A], [Not Supported].
    told = [value and not value.startswith("[") for value in values]
    return {name: values[i] for i, name in enumerate(fields) if told[i]}


def jetson_gpu(root: Path = Path("/sys")) -> dict[str, str]:
    """Clocks of a Jetson's GPU, as Linux scales them (devfreq); {} where there is none.

    Args:
        root: where sysfs is.
    """
    for device in sorted((root / "class/devfreq").glob("*")):
        if not any(part in _JETSONS for part in device.name.split(".")):
            continue
        now, low, high = (_text(device / f"{what}_freq") for what in ("cur", "min", "max"))
        if now.isdigit() and low.isdigit() and high.isdigit():
            return {
                "gpu_clock_mhz": str(int(now) // 1000000),
                "gpu_clock_limits_mhz": f"{int(low) // 1000000} to {int(high) // 1000000}",
                "gpu_clocks_locked": "yes" if low == high else "no",
            }
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
