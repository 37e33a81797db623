"""PyTorch at the agent on a remote device.

It is sent there as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.agent_running import Running, Runtime, missing
from autoprune.profile.neighbours import times_ms
from autoprune.profile.pytorch_kernels import profile_beside
from autoprune.profile.pytorch_program import Program
from autoprune.profile.pytorch_runs import Runs


class PyTorch(Runtime):
    """PyTorch on a CPU or an NVIDIA GPU.

    A network's file is a program of `torch.export.save`, with its inputs in it.

    Args:
        device: "cpu" or "cuda".
        mode: as of `Runs`.
        precision: likewise.
        threads: likewise.
        index: likewise.
        exporter: the version of torch that programs are exported by.

    Raises:
        ProfilerError: torch is not there, or can't run networks so.
    """

    def __init__(
        self, device: str, mode: str, precision: str, threads: int, index: int, exporter: str
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise ProfilerError(missing("torch", error)) from error
        try:
            self._runs = Runs(torch, device, mode, precision, threads, index)
        except MissingDependencyError as error:
            raise ProfilerError(f"{error} (on the device)") from error
        torch.set_num_threads(threads)
        self._exporter = exporter
        self.about, self.details = self._runs.about, self._runs.details
        self.gpu = self.details.get("gpu", "0")

    def load(self, model: str, inputs: Mapping[str, Any]) -> Running:
        """As of `Runtime`; the inputs are in the file."""
        try:
            program = Program(self._runs, model)
        except Exception as error:  # whatever torch raises belongs to this network
            version = self.about["runtime_version"]
            if version == self._exporter:
                raise
            raise ProfilerError(
                f"torch {version} there can't run what torch {self._exporter} here exported "
                f"({type(error).__name__}: {error}); install the same version there"
            ) from error
        return _Network(self._runs, program)

    def kernels(self, reference: Any, own: Any) -> tuple[list[dict[str, Any]], float]:
        """As of `Runtime`: the operators of eager runs."""
        both = [(each.program.module, each.program.run) for each in (reference, own)]
        return profile_beside(both[0], both[1], self._runs.cuda)


class _Network:
    """A `Running` network.

    Args:
        runs: how.
        program: the network.
    """

    note = ""
    slowed: Sequence[float] = ()

    def __init__(self, runs: Runs, program: Program) -> None:
        self.program = program
        self._runs, self._ready = runs, runs.ready(program.run)
        self._timed = runs.timed(self._ready)

    def run(self, runs: int) -> None:
        """As of `Running`."""
        for _ in range(runs):
            self._ready()
        self._runs.wait()

    def times_ms(self, runs: int) -> list[float]:
        """As of `Running`."""
        times, self.slowed = times_ms(self._timed, runs)
        return times
