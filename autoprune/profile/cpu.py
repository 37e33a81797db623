"""What this machine's CPU is called, and what it can do.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import platform
import re
from functools import lru_cache
from pathlib import Path

from autoprune.profile.conditions import cpu_clocks

_VECTOR = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "sve", "sve2",
    "i8mm", "bf16",
)  # fmt: skip


def parse_cpuinfo(text: str) -> tuple[str, dict[str, str]]:
    """Name and details of the first processor in the text of /proc/cpuinfo.

    A name without a model number ("AMD EPYC", as some clouds tell it) gets family and model
    added, so that two generations do not share a latency table.

    Returns:
        The name ("" where the text tells none) and details: family, model, stepping, the vector
        instruction sets, the number of logical CPUs.
    """
    fields: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            count += name.strip() == "processor"
            fields.setdefault(name.strip().lower(), value.strip())
    details = {"logical_cpus": str(count)} if count else {}
    for key, label in (("cpu family", "family"), ("model", "model"), ("stepping", "stepping"),
                       ("cpu implementer", "implementer"), ("cpu part", "part")):  # fmt: skip
        if key in fields:
            details[label] = fields[key]
    flags = (fields.get("flags") or fields.get("features") or "").split()
    vector = [flag for flag in _VECTOR if flag in flags]
    if vector:
        details["instructions"] = " ".join(vector)
    name = re.sub(r"\((R|TM|r|tm)\)", "", fields.get("model name", ""))
    name = re.sub(r"\s+", " ", name).strip()
    if name and not any(c.isdigit() for c in name) and "family" in details and "model" in details:
        name += f" family {details['family']} model {details['model']}"
    if not name and "implementer" in details:
        name = f"ARM implementer {details['implementer']} part {details.get('part', '?')}"
    return name, details


@lru_cache(maxsize=1)
def cpu() -> tuple[str, dict[str, str]]:
    """Name and details of this machine's CPU; from /proc/cpuinfo, else what Python knows."""
    try:
        name, details = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        name, details = "", {}
    details.setdefault("system", f"{platform.system()} {platform.machine()}")
    details |= {"clocks_locked": "unknown", **cpu_clocks()}
    return name or platform.processor() or platform.machine() or "unknown CPU", details
