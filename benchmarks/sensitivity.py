"""What sensitivities are worth: best top-1 after few evaluations of ResNet-56 at a budget of MACs.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/sensitivity.py --trials 10

The searcher `exact` runs once for each kind of sensitivity, and the best of its trials so far is
printed after each. "measured" spends evaluations of its own beforehand: they are printed too.
Top-1 in % on `val`, before any fine-tuning; the dense network has 93.16.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import autoprune
from examples import cifar10
from examples.resnet_cifar import example_inputs, resnet56


class Counted:
    """The evaluation, counted."""

    def __init__(self, subset: int | None) -> None:
        self.calls, self.subset = 0, subset

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        self.calls += 1
        return cifar10.evaluate(model, subset=self.subset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds", nargs="+", default=["trials", "reconstruction", "fisher", "divergence"]
    )
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--space", default="resnet-inner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subset", type=int, help="evaluate on so many images of `val`")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = resnet56().to(memory_format=torch.channels_last)
    for kind in options.kinds:
        evaluate = Counted(options.subset)
        start = time.process_time()
        result = autoprune.search(
            model,
            example_inputs(),
            evaluate=evaluate,
            calibration=cifar10.calibration(400),
            budget={"macs": options.budget},
            device=None,
            space=options.space,
            searcher="exact",
            searcher_options={"sensitivity": kind},
            trials=options.trials,
            seed=options.seed,
        )
        scores = [100 * trial.score("accuracy") for trial in result.trials]
        best = [f"{max(scores[: i + 1]):.2f}" for i in range(len(scores))]
        beside = evaluate.calls - len(scores) - 1  # the dense network's own
        print(
            f"{kind:14} {' '.join(best)}  ({beside} evaluations beside the trials, "
            f"{time.process_time() - start:.0f} s in all)",
            flush=True,
        )


if __name__ == "__main__":
    main()
