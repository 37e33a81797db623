"""Energy of NVIDIA Jetson boards, from the power monitors of their supply rails.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from autoprune.core.errors import ProfilerError
from autoprune.profile.energy_sampled import PERIOD_S, SampledPower

#: Where Linux shows the INA3221 monitors: by its hardware monitoring, and by older kernels.
FOLDERS = ("/sys/bus/i2c/drivers/ina3221", "/sys/bus/i2c/drivers/ina3221x")

#: Rails that supply the whole module, on the boards that have one.
WHOLE = ("VDD_IN", "POM_5V_IN", "SYS_5V_IN")


class JetsonMeter(SampledPower):
    """The power of a Jetson's supply rails, summed over time.

    Args:
        rails: names of the rails to sum, joined by +; "" takes the one that supplies the whole
            module, which must be named where a board has none (AGX Orin:
            "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0").
        period_s: between two readings.
        folders: where the monitors are: one or several; others where a container sees the
            system's elsewhere.

    Raises:
        ProfilerError: there are no monitors, they may not be read, or no rail is called so.
    """

    name = "jetson"
    host = True

    def __init__(
        self,
        rails: str = "",
        period_s: float = PERIOD_S,
        folders: Sequence[str] | str = FOLDERS,
    ) -> None:
        folders = [folders] if isinstance(folders, str) else folders
        found = find_rails([Path(folder) for folder in folders])
        if not found:
            raise ProfilerError(
                f"no power monitor of a Jetson is shown in {' or '.join(folders)}: this is no "
                "Jetson, or the container does not see /sys/bus/i2c"
            )
        wanted = rails.split("+") if rails else [n for n in WHOLE if n in found][:1]
        unknown = [n for n in wanted if n not in found]
        if unknown or not wanted:
            raise ProfilerError(
                f"rails of the meter jetson must name some of {', '.join(sorted(found))}, joined "
                f"by +; got {rails!r}"
                + ("" if rails else " (none of this board's rails supplies the whole module)")
            )
        chosen = [found[n] for n in wanted]
        try:
            for read in chosen:
                read()
        except (OSError, ValueError) as error:
            raise ProfilerError(f"the Jetson's power monitors can't be read: {error}") from error
        self.covers = f"{' + '.join(wanted)} (INA3221): idle power included"
        super().__init__(lambda: sum(read() for read in chosen), period_s)


def find_rails(folders: Sequence[Path]) -> dict[str, Callable[[], float]]:
    """Supply rails by name → a function that reads their power in watts.

    Args:
        folders: of the monitors' drivers; each device below has its rails beside it, or in a
            folder `hwmon/hwmonN`, or (older kernels) in `iio:deviceN`.
    """
    rails: dict[str, Callable[[], float]] = {}
    places = [
        place
        for folder in folders
        for pattern in ("*", "*/hwmon*", "*/hwmon/hwmon*", "*/iio:device*")
        for place in sorted(folder.glob(pattern))
        if place.is_dir()
    ]
    for place in places:
        for label in sorted(place.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            _add(rails, place, label, f"power{number}", f"in{number}", f"curr{number}")
        for label in sorted(place.glob("rail_name_*")):
            number = label.name.removeprefix("rail_name_")
            parts = (f"in_power{number}", f"in_voltage{number}", f"in_current{number}")
            _add(rails, place, label, *parts)
    return rails


def _add(
    rails: dict[str, Callable[[], float]],
    place: Path,
    label: Path,
    power: str,
    voltage: str,
    current: str,
) -> None:
    try:
        rail = label.read_text().strip()
    except OSError:
        return
    milliwatts, millivolts, milliamperes = (
        place / f"{part}_input" for part in (power, voltage, current)
    )
    # hwmon tells powerN_input in microwatts, the older driver in_powerN_input in milliwatts.
    unit = 1e-6 if power.startswith("power") else 1e-3
    if milliwatts.is_file():
        rails.setdefault(rail, lambda: float(milliwatts.read_text()) * unit)
    elif millivolts.is_file() and milliamperes.is_file():
        rails.setdefault(
            rail, lambda: float(millivolts.read_text()) * float(milliamperes.read_text()) * 1e-6
        )
