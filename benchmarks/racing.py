"""What racing saves: evaluation samples of a ResNet's candidates, and whether the winner stays.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/racing.py

Each candidate of a search is evaluated in full once; then the race is replayed over what it was
right on, for several numbers of places. So both see the same candidates in the same order.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.trial import Trial
from autoprune.searchers.registry import make_searcher
from autoprune.study.racing import Race
from benchmarks.setting import Setting
from examples import cifar10


class Recorded:
    """Gives what a candidate was right on; counts what is asked for."""

    def __init__(self, samples: int) -> None:
        self.samples, self.asked = samples, 0
        self.right = np.zeros(samples, dtype=bool)

    def hits(self, model: object, indices: np.ndarray) -> np.ndarray:
        self.asked += len(indices)
        return self.right[indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56", help="of examples/resnet_cifar.py")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--searcher", default="random")
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--subset", type=int, default=5000, help="images of `val`")
    parser.add_argument("--confidence", type=float, default=0.99)
    parser.add_argument("--minutes", type=float, default=20, help="begin no candidate after that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(options.network, options.budget)
    searcher = make_searcher(options.searcher, setting.context(options.trials, options.seed))
    val = cifar10.Val(subset=options.subset)
    evaluator = setting.evaluator(val)
    model = torch.nn.Identity()
    found, start = [], time.monotonic()
    while len(found) < options.trials and time.monotonic() - start < 60 * options.minutes:
        (candidate,) = searcher.suggest()
        built = evaluator.build(evaluator.select(candidate))
        right = val.hits(built, np.arange(val.samples))
        found.append((candidate, right))
        predicted = setting.cost(candidate)
        metrics = {"accuracy": float(right.mean())}
        searcher.update([Trial(len(found) - 1, candidate, predicted, metrics=metrics)])
    scores = [100 * right.mean() for _, right in found]
    print(f"{len(found)} candidates, top-1 {min(scores):.2f} to {max(scores):.2f}")
    for places in (1, 3):
        recorded = Recorded(val.samples)
        race = Race(
            recorded, places=places, confidence=options.confidence, seed=options.seed, file=None
        )
        whole = []
        for number, (candidate, right) in enumerate(found):
            recorded.right = right
            _, samples = race(model, candidate)
            whole += [number] if samples is None else []
        saved = 1 - recorded.asked / (val.samples * len(found))
        best = max(whole, key=lambda number: scores[number])
        same = "the same winner" if scores[best] == max(scores) else "another winner"
        print(
            f"places {places}: {100 * saved:.0f} % of the samples saved, "
            f"{len(found) - len(whole)} stopped, {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
