"""What trtexec prints and writes, read; and the options it takes, by version.

The formats are those of trtexec's source (samples/common/sampleReporting.cpp of TensorRT's open
source part) and the same from 8.6 to 11.x.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from autoprune.core.errors import ProfilerError
from autoprune.profile.tensorrt_build import FLAGS
from autoprune.profile.tensorrt_layers import by_occurrence

_BANNER = re.compile(r"\[TensorRT v(\d+(?:\.\d+)*)\]")
_DEVICE = re.compile(r"Selected Device: *(.+?) *$", re.M)
_CAPABILITY = re.compile(r"Compute Capability: *(\d+\.\d+)")

#: What is read of trtexec's errors, in characters.
_ERRORS = 400

#: The oldest version whose options these are.
OLDEST = (8, 6)


def version(output: str) -> tuple[int, int, int]:
    """TensorRT's version from the first line that trtexec prints.

    Raises:
        ProfilerError: there is no such line, or the version is too old.
    """
    match = _BANNER.search(output)
    if match is None:
        raise ProfilerError(
            f"the program must be trtexec, which prints its version; got {output.strip()[:200]!r}"
        )
    text = match.group(1)
    if "." in text:
        major, minor, patch = ([int(p) for p in text.split(".")] + [0, 0])[:3]
    else:  # 8602 is 8.6.2, 100300 is 10.3.0
        major, rest = divmod(int(text), 10_000 if len(text) > 4 else 1000)
        minor, patch = divmod(rest, 100)
    if (major, minor) < OLDEST:
        raise ProfilerError(
            f"trtexec must be of TensorRT {OLDEST[0]}.{OLDEST[1]} or later, got "
            f"{major}.{minor}.{patch}"
        )
    return major, minor, patch


def device(output: str) -> tuple[str, str]:
    """Name and compute capability of the GPU that trtexec chose.

    Raises:
        ProfilerError: it does not tell them.
    """
    name, capability = _DEVICE.search(output), _CAPABILITY.search(output)
    if name is None:
        raise ProfilerError("trtexec must tell the device it selected (Selected Device: ...)")
    return name.group(1), capability.group(1) if capability else "unknown"


def errors(output: str) -> str:
    """What trtexec says went wrong, in its own words."""
    lines = [line.partition("[E]")[2].strip() for line in output.splitlines() if "[E]" in line]
    said = " / ".join(dict.fromkeys(line for line in lines if line)) or output.strip()
    return (said if len(said) <= _ERRORS else f"{said[:_ERRORS]}...") or "it says nothing"


def precision_options(precision: str, major: int) -> list[str]:
    """The options that tell a precision; from 11 on the network's types tell it.

    Args:
        precision: a name in `tensorrt_build.FLAGS`.
        major: of TensorRT's version.
    """
    options = ["--noTF32"] if precision == "fp32" else []
    if major < 11:
        options += [f"--{flag.lower()}" for flag in FLAGS[precision] if flag != "TF32"]
    return options


def read_times(text: str) -> list[float]:
    """GPU milliseconds of each run, as `--exportTimes` writes them.

    Raises:
        ProfilerError: it is something else.
    """
    try:
        times = [float(run["computeMs"]) for run in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise ProfilerError(
            f"trtexec must write times as a JSON list with computeMs: {error}"
        ) from error
    if not times or not all(math.isfinite(t) and t > 0 for t in times):
        raise ProfilerError(f"trtexec must write positive times, got {times[:5]}")
    return times


def read_profile(text: str) -> Mapping[str, float]:
    """Milliseconds of each layer, as `--exportProfile` writes them: medians, else means.

    Raises:
        ProfilerError: it is something else.
    """
    try:
        entries = [entry for entry in json.loads(text) if "name" in entry]
        return by_occurrence(
            [
                (str(entry["name"]), float(entry.get("medianMs", entry["averageMs"])))
                for entry in entries
            ]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ProfilerError(
            f"trtexec must write its profile as a JSON list of layers: {error}"
        ) from error
