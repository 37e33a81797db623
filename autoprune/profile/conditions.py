"""What a device's speed depends on besides the network: clocks, their limits, temperature.

Read where Linux and NVIDIA's driver tell it, left out where they don't; nothing is changed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from autoprune.core.device import DeviceSpec

#: Kinds of thermal zones and hardware monitors that tell a processor's temperature.
_ZONES = ("x86_pkg_temp", "cpu", "soc")
_MONITORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")

#: Entries of a GPU's conditions → nvidia-smi's name of them.
_GPU = {
    "driver": "driver_version",
    "gpu_temperature_c": "temperature.gpu",
    "gpu_clock_mhz": "clocks.sm",
    "gpu_clock_max_mhz": "clocks.max.sm",
    "gpu_clock_setting_mhz": "clocks.applications.graphics",
    "gpu_power_limit_w": "power.limit",
}


def conditions(device: DeviceSpec) -> dict[str, str]:
    """What can be read now of a device, if it is this machine's processor or a GPU here."""
    from autoprune.profile.cpu import cpu

    found = {**cpu_clocks(), **cpu_now()} if device.name == cpu()[0] else {}
    if device.provider.startswith(("cuda", "tensorrt")) or device.runtime == "tensorrt":
        found |= gpu()
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

    Args:
        which: its number or UUID.
        command: how nvidia-smi is called.
    """
    if shutil.which(command[0]) is None:
        return {}
    query = ",".join(_GPU.values())
    asked = [*command, f"--query-gpu={query}", "--format=csv,noheader,nounits", f"--id={which}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(_GPU):
        return {}
    return {n: v for n, v in zip(_GPU, values, strict=True) if v and not v.startswith("[")}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
