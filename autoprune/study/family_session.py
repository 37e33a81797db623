"""A search for several budgets, one after the other, that share the trials and the table."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.budget import Budget
from autoprune.searchers.base import Searcher
from autoprune.space.projection import check_feasible
from autoprune.study.session import Session


class FamilySession(Session):
    """A search for several budgets; each has a searcher, told of all that was found before it.

    The arguments are `Session`'s. Set `budgets` before `run`.
    """

    #: In the order in which they are searched for.
    budgets: Sequence[Budget] = ()

    def aim(self, budget: Budget) -> None:
        """Go on with another budget; what was found and measured so far counts for it too.

        Raises:
            InfeasibleBudgetError: nothing holds it.
        """
        self.budget = budget
        self.limits = budget.absolute(self.dense_cost)
        check_feasible(self.space, self.limits, self.cost_model, self.dense_cost, self._z)

    def _first(self) -> Searcher:
        self.aim(self.budgets[0])
        return self.searcher(self._share(0))

    def _share(self, number: int) -> int:
        """Trials of one budget."""
        trials, count = self.config.trials, len(self.budgets)
        return trials * (number + 1) // count - trials * number // count

    def _search(self) -> None:
        for number, budget in enumerate(self.budgets):
            share = self._share(number)
            total = len(self.loop.trials) + share
            if number:
                self.aim(budget)
                self.loop.use(self.searcher(total, begun=total - share))
            self.progress.message(f"budget {budget}: {share} of {self.config.trials} trials")
            self._go(total)
        if not self.needs_device:
            return
        for budget in self.budgets:  # What was found for another may be better than its own.
            self.aim(budget)
            self._verify(batches=1)
