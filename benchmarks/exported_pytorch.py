"""How much longer networks take that torch.export wrote down, than the modules they come from.

Over ssh PyTorch runs exported networks (`profile/pytorch_program.py`). This runs, eagerly on one
thread and interleaved with the module itself: that program; `ExportedProgram.module()`; and what
`torch.export.unflatten` gives, as it is. A second copy of the module shows the noise.

    python benchmarks/exported_pytorch.py --batch 1
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import torch
from networks import NETWORKS

from autoprune.core.device import MeasuringProtocol, ModuleCall
from autoprune.profile.measuring import measure_interleaved
from autoprune.profile.pytorch_export import exported
from autoprune.profile.pytorch_program import Program
from autoprune.profile.pytorch_runs import Runs


def ratios(name: str, batch: int | None, timeout_s: float) -> dict[str, str]:
    """Each way's latency over the module's, with the half width of its interval."""
    torch.manual_seed(0)
    make, usual = NETWORKS[name]
    x, module = torch.randn(batch or usual, 3, 32, 32), make().eval()
    runs = Runs(torch, "cpu", "eager", "fp32")
    data = exported(ModuleCall(module, (x,)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt2"
        file.write_bytes(data)
        program = Program(runs, str(file))
    loaded = torch.export.load(io.BytesIO(data))
    ways = {
        "module": runs.eager(module, (x,), {}),
        "module again": runs.eager(module, (x,), {}),
        "program": program.run,
        "flat": runs.eager(loaded.module(), (x,), {}),
        "unflattened": runs.eager(torch.export.unflatten(loaded), (x,), {}),
    }
    protocol = MeasuringProtocol(width=0.002, max_rounds=400, timeout_s=timeout_s)
    runners = [runs.timed(run) for run in ways.values()]
    found = measure_interleaved(list(ways), runners, protocol)
    told = {}
    for each in found[1:]:
        low, high = each.ratio_interval
        told[each.key] = f"{each.ratio:.3f} ± {(high - low) / 2:.3f}"
    return {"batch": str(len(x)), "ms": f"{found[0].latency_ms:.2f}", **told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, help="by default that of networks.py")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--timeout-s", type=float, default=20.0, help="for each network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, fp32")
    for name in given.networks:
        told = ratios(name, given.batch, given.timeout_s)
        print(f"{name:12}", *(f"{what} {value}" for what, value in told.items()), sep="  ")


if __name__ == "__main__":
    main()
