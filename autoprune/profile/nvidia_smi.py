"""What an NVIDIA GPU is called, without a CUDA context on it.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from autoprune.core.errors import ProfilerError

#: What the device tree of a Jetson calls the board.
BOARD = Path("/proc/device-tree/model")


def number(index: int | str) -> str:
    """What nvidia-smi calls a GPU that CUDA counts so: CUDA_VISIBLE_DEVICES numbers them anew.

    Args:
        index: CUDA's number; anything else (a UUID) stays as it is.
    """
    shown = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    at = int(index) if str(index).isdigit() else len(shown)
    told = shown[at] if at < len(shown) else ""
    return told if told.isdigit() or told.startswith("GPU-") else str(index)


def gpu(index: int = 0, *, command: tuple[str, ...] = ("nvidia-smi",)) -> tuple[str, str]:
    """Name and driver of a GPU, from nvidia-smi, else (on a Jetson) from the device tree.

    Args:
        index: of the GPU, as CUDA counts.
        command: how nvidia-smi is called.

    Returns:
        The name, and the driver's version ("" where it is not told).

    Raises:
        ProfilerError: there is no NVIDIA GPU of that number, or no driver.
    """
    why = "nvidia-smi is not there"
    if shutil.which(command[0]):
        query = [
            "--query-gpu=name,driver_version",
            "--format=csv,noheader",
            f"--id={number(index)}",
        ]
        try:
            done = subprocess.run(
                [*command, *query], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = f"nvidia-smi can't be run: {error}"
        else:
            name, separator, driver = done.stdout.strip().partition(", ")
            if done.returncode == 0 and separator:
                return name, driver
            why = f"nvidia-smi says: {(done.stdout + done.stderr).strip()[:200]}"
    try:
        board = BOARD.read_text(encoding="utf-8").rstrip("\0\n ")
    except OSError:
        board = ""
    if "nvidia" in board.lower():
        return board, ""
    raise ProfilerError(f"an NVIDIA GPU of number {index} and its driver must be there; {why}")
