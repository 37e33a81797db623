"""What a search tells while it runs; the command line draws it, by default nobody listens."""

from __future__ import annotations

from autoprune.core.trial import Trial


class Progress:
    """Listens to a search. Override what is of interest; everything does nothing by default."""

    def begin(self, objective: str) -> None:
        """The search begins.

        Args:
            objective: the metric that is maximised.
        """

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins.

        Args:
            name: for people ("measuring the latency table").
            total: its steps, where they are known.
        """

    def step(self, done: int, total: int | None = None, note: str = "") -> None:
        """So many steps of the stage are done."""

    def trial(self, trial: Trial, best: Trial | None, done: int, total: int) -> None:
        """A trial is finished.

        Args:
            trial: the one.
            best: the best so far, by the objective.
            done: finished trials.
            total: planned trials.
        """

    def message(self, text: str) -> None:
        """Something worth a line."""
