"""PyTorch on a remote device; networks are exported here, so that no class of theirs is needed."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.device import Artifact
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.pytorch import NO_MODULE
from autoprune.profile.pytorch_export import exported
from autoprune.profile.pytorch_runs import check_settings
from autoprune.profile.ssh_runtime import RemoteRuntime, Sent
from autoprune.profile.threads import checked_threads

#: Seconds that loading a network may take, in which it is compiled.
COMPILE_S = 600.0


class PyTorchThere(RemoteRuntime):
    """PyTorch there.

    A user's module may take longer than its operators do, by what else its Python does. So the
    device that runs exported networks is another one than that which runs their modules.

    Args:
        device: "cpu" or "cuda"; the others as of `PyTorchProfiler`.
    """

    beside = True

    def __init__(self, device: str, mode: str, precision: str, threads: int, index: int) -> None:
        check_settings(device, mode, precision)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ProfilerError(f"index must be that of a GPU, from 0; got {index!r}")
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(
                "measuring with PyTorch over ssh needs the package torch here too, which exports "
                f"the networks: pip install torch ({error})"
            ) from error
        super().__init__(
            "pytorch",
            precision,
            {
                "device": device,
                "mode": mode,
                "precision": precision,
                "threads": checked_threads(threads),
                "index": index,
                "exporter": str(torch.__version__),
            },
            settings={"network": "exported"},
        )
        if mode == "compiled":
            self.tells_kernels = False
            self.load_s = COMPILE_S

    def ready(self, artifacts: Sequence[Artifact]) -> tuple[list[Sent], dict[int, str]]:
        """As of `RemoteRuntime`."""
        found, errors = [], {}
        for index, artifact in enumerate(artifacts):
            try:
                if artifact.call is None:
                    raise ProfilerError(NO_MODULE)
                found.append(Sent(exported(artifact.call()), {}))
            except ProfilerError as error:
                found.append(Sent(b"", {}))
                errors[index] = f"PyTorch can't run it there: {error}"
        return found, errors


def pytorch_cpu(threads: int = 1, mode: str = "eager", precision: str = "fp32") -> PyTorchThere:
    """PyTorch on the CPU there; arguments as of `PyTorchProfiler`."""
    return PyTorchThere("cpu", mode, precision, threads, 0)


def pytorch_cuda(mode: str = "eager", precision: str = "fp32", index: int = 0) -> PyTorchThere:
    """PyTorch on an NVIDIA GPU there; arguments as of `PyTorchProfiler`."""
    return PyTorchThere("cuda", mode, precision, 1, index)
