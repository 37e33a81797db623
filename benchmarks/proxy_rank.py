"""Does the proxy rank candidates right? Top-1 before recovery against top-1 after it.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/proxy_rank.py

Random candidates of a ResNet at one budget of MACs are pruned and reconstructed as a search
evaluates them, then fine-tuned for a few epochs on a part of `train`. Rank correlations
(Spearman's and Kendall's) of the two accuracies are printed, with the probability of as high a
one among candidates in random order (by permutation).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.pruning.recover import recover
from autoprune.searchers.random import RandomSearcher
from benchmarks.setting import Setting
from examples import cifar10


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing their mean."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Tau-b."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None])[upper] for v in (a, b))
    return float((x * y).sum() / max(np.sqrt((x**2).sum() * (y**2).sum()), 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56", help="of examples/resnet_cifar.py")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=2560, help="of `train`, in each epoch")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--subset", type=int, default=5000, help="images of `val`")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--minutes", type=float, default=20, help="begin no candidate after that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(options.network, options.budget)
    searcher = RandomSearcher(setting.context(None, options.seed))

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        return cifar10.evaluate(model, subset=options.subset)

    evaluator = setting.evaluator(evaluate)
    before, after = [], []
    start = time.monotonic()
    for number, candidate in enumerate(searcher.suggest(options.candidates)):
        if time.monotonic() - start > 60 * options.minutes:
            print(f"stopped after {number} candidates: {options.minutes:g} minutes are over")
            break
        model = evaluator.build(evaluator.select(candidate))
        done = recover(
            model,
            setting.network.model,
            cifar10.Loader(count=options.images, seed=options.seed),
            epochs=options.epochs,
            lr=options.lr,
            precision=options.precision,
        )
        # The last epoch's network, better or not: keeping the better one would bind the two.
        after.append(100 * evaluate(model)["accuracy"])
        fresh = evaluator.build(evaluator.select(candidate))
        before.append(100 * evaluate(fresh)["accuracy"])
        loss = done.history[-1].loss
        print(f"{number}: {before[-1]:.2f} -> {after[-1]:.2f} (loss {loss:.3f})", flush=True)
    if len(before) < 3:
        return
    a, b = np.array(before), np.array(after)
    rng = np.random.default_rng(0)
    found = spearman(a, b)
    chance = np.mean([spearman(a, rng.permutation(b)) >= found for _ in range(10_000)])
    print(
        f"{len(a)} candidates, {options.epochs} epochs of {options.images} images: "
        f"Spearman {found:.2f}, Kendall {kendall(a, b):.2f} (as high by chance: {chance:.3f}); "
        f"top-1 {a.min():.2f} to {a.max():.2f} before, {b.min():.2f} to {b.max():.2f} after"
    )


if __name__ == "__main__":
    main()
