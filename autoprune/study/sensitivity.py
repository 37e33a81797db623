"""The sensitivities that searchers may ask for: computed once in a run, then remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.evaluate.quiet import evaluating

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.space.space import Decision, SearchSpace
    from autoprune.study.evaluation import CandidateEvaluator
    from autoprune.study.progress import Progress
    from autoprune.study.task import Task

#: Gives what a run has stored next, or None; and stores.
Replay = Callable[[], Mapping[str, Any] | None]
Record = Callable[[dict[str, Any]], None]

#: Shares of a group's units that "measured" evaluates, the nearest choices to them.
WIDTHS = (0.5, 0.25)


class Sensitivities:
    """Computes what pruning each group alone would lose, when a searcher first asks for it.

    Args:
        task: gives calibration and training batches, and the loss.
        network: traced.
        space: the choices.
        evaluator: of candidates; gives the order in which units go.
        dense: the dense network's objective, for "measured".
        replay: gives what an interrupted run has stored.
        record: stores.
        progress: is told what it cost.
    """

    def __init__(
        self,
        task: Task,
        network: Network,
        space: SearchSpace,
        evaluator: CandidateEvaluator,
        dense: Callable[[], float],
        replay: Replay,
        record: Record,
        progress: Progress,
    ) -> None:
        self._task = task
        self._network = network
        self._space = space
        self._evaluator = evaluator
        self._dense = dense
        self._replay = replay
        self._record = record
        self._progress = progress
        self._known: dict[str, dict[str, Floats]] = {}

    @property
    def usual(self) -> str:
        """The kind to take where none is asked for."""
        return "divergence" if self._task.calibration else "trials"

    def __call__(self, kind: str) -> Mapping[str, Floats]:
        """Group → (choices,) losses.

        Raises:
            ConfigError: the task lacks what it is computed from.
            EvaluationError: an evaluation of "measured" failed.
        """
        if kind not in self._known:
            self._known[kind] = self._measured() if kind == "measured" else self._computed(kind)
        return self._known[kind]

    def _computed(self, kind: str) -> dict[str, Floats]:
        stored = self._replay()
        if stored is None:
            with evaluating():
                stored = self._compute(kind)
            self._record(dict(stored))
        if stored["kind"] != kind:
            raise ConfigError(
                f"the run has the sensitivity {stored['kind']!r}, not {kind!r}: its settings or "
                "the versions changed. Start anew in another folder"
            )
        self._tell(kind, 0, float(stored["seconds"]))
        return {group: np.array(losses) for group, losses in stored["losses"].items()}

    def _compute(self, kind: str) -> dict[str, Any]:
        from autoprune.pruning.divergence import divergence_losses
        from autoprune.pruning.sensitivity import fisher_losses, reconstruction_losses

        task, batches = self._task, self._evaluator.calibration
        if not batches:
            raise ConfigError(
                f"sensitivity {kind!r} needs batches of inputs: give them by `calibration`"
            )
        self._progress.stage(f"computing the sensitivity of every group ({kind})")
        start = time.perf_counter()
        counts = {
            name: decision.choices
            for decision in self._free()
            for name in (decision.group, *decision.tied)
        }
        scores = self._evaluator.scores
        if kind == "reconstruction":
            losses = reconstruction_losses(self._network, batches, counts, scores)
        elif kind == "divergence":
            # Without a loss of its own, recovery takes cross-entropy: the output is logits.
            losses = divergence_losses(
                self._network, batches, counts, scores, classifies=task.loss is None
            )
        else:
            labelled = None
            if task.loss is not None and task.train is not None:
                labelled = [batch for batch, _ in zip(task.train, range(_LABELLED), strict=False)]
            losses = fisher_losses(
                self._network, batches, counts, scores, labelled=labelled, loss=task.loss
            )
        summed = {
            decision.group: sum(losses[name] for name in names).tolist()  # type: ignore[union-attr]
            for decision in self._free()
            for names in [[n for n in (decision.group, *decision.tied) if n in losses]]
            if names
        }
        return {"kind": kind, "losses": summed, "seconds": time.perf_counter() - start}

    def _free(self) -> list[Decision]:
        return [decision for decision in self._space.decisions if len(decision.choices) > 1]

    # -- measured ------------------------------------------------------------------------------

    def _measured(self) -> dict[str, Floats]:
        """By evaluating every group at a few widths, all others whole."""
        start, dense = time.perf_counter(), self._dense()
        self._progress.stage("measuring the sensitivity of every group")
        losses: dict[str, Floats] = {}
        evaluations = 0
        for decision in self._free():
            units = decision.choices[-1]
            widths = sorted(
                {min(decision.choices[:-1], key=lambda c: abs(c - w * units)) for w in WIDTHS}
            )
            lost = [max(dense - self._evaluate(decision, width), 0.0) for width in widths]
            evaluations += len(widths)
            losses[decision.group] = interpolated(decision.choices, widths, lost)
        self._tell("measured", evaluations, time.perf_counter() - start)
        return losses

    def _evaluate(self, decision: Decision, width: int) -> float:
        stored = self._replay()
        if stored is None:
            kept = {group.name: group.units for group in self._network.groups}
            kept |= dict.fromkeys((decision.group, *decision.tied), width)
            outcome = self._evaluator(Candidate.of(kept), racing=False)
            if outcome.error is not None:
                raise EvaluationError(
                    f"the sensitivity of {decision.group} could not be measured: {outcome.error}"
                )
            score = outcome.metrics[self._task.config.objective]
            stored = {"kind": "measured", "group": decision.group, "kept": width, "score": score}
            self._record(dict(stored))
        if (stored["kind"], stored.get("group"), stored.get("kept")) != (
            "measured",
            decision.group,
            width,
        ):
            raise ConfigError(
                "the run has measured the sensitivity of other groups: its settings or the "
                "versions changed. Start anew in another folder"
            )
        return float(stored["score"])

    def _tell(self, kind: str, evaluations: int, seconds: float) -> None:
        self._progress.message(
            f"sensitivity {kind}: {evaluations} evaluations beside the trials, {seconds:.1f} s"
        )


#: Training batches whose labels the Fisher sensitivity takes, where a loss is given.
_LABELLED = 8


def interpolated(choices: tuple[int, ...], widths: list[int], lost: list[float]) -> Floats:
    """(choices,) losses from those at a few widths: growing as a group gets narrower.

    Between the widths linear; below the narrowest one the last slope goes on.

    Args:
        choices: kept units, ascending, the last dense.
        widths: ascending, below the last choice.
        lost: measured at each, of at least 0.
    """
    x = np.array([*widths, choices[-1]], dtype=np.float64)
    y = np.maximum.accumulate(np.array([*lost, 0.0])[::-1])[::-1]
    known = np.interp(choices, x, y)
    slope = (y[0] - y[1]) / (x[1] - x[0])
    below = np.array(choices) < x[0]
    return np.where(below, y[0] + slope * (x[0] - np.array(choices)), known)
