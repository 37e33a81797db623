"""The main job on real data in about two minutes: `make demo`.

Trains a small residual network with depthwise convolutions on scikit-learn's handwritten digits,
searches for a smaller one under a latency budget on this machine's CPU, measures it, recovers it
by fine-tuning and exports it to ONNX.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from rich.console import Console

import autoprune
from autoprune.cli.progress import TerminalProgress
from autoprune.report import scatter, summary
from examples import digits

OUT = Path("runs/demo")
BUDGET = "latency=0.5x"


def main() -> int:
    """Run the demo; the exit status is 0 if the budget holds."""
    torch.set_num_threads(1)  # the network is too small for more to help
    console = Console()
    console.print(
        f"A search on real data: scikit-learn's digits, budget {BUDGET} on this CPU.\n"
        "Training the dense network first."
    )
    shutil.rmtree(OUT, ignore_errors=True)
    with TerminalProgress(console).running() as progress:
        epochs = 8
        progress.stage("training the dense network", epochs)
        model = digits.train(epochs, on_epoch=lambda done, _: progress.step(done, epochs))
        result = autoprune.search(
            model,
            digits.example_inputs(),
            budget=BUDGET,
            evaluate=digits.evaluate,
            calibration=digits.calibration(256),
            train=digits.train_batches(),
            searcher="auto",
            trials=30,
            recover={"epochs": 4},
            profile={"timeout_s": 30},
            out=OUT,
            progress=progress,
        )
    console.print()
    console.print(summary(result.data), highlight=False)
    picture = scatter(result.data, result.trials, OUT / "trials.png")
    console.print(f"\nwritten: {OUT}/pruned.onnx, result.json, {picture.name if picture else ''}")
    return 0 if result.held else 1


if __name__ == "__main__":
    sys.exit(main())
