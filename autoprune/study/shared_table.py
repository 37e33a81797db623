"""A latency table that the drivers of a batch on several clusters share: measured by the first."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.core.errors import RunError
from autoprune.study.database import is_away
from autoprune.study.shared_study import SharedStudy


class SharedTable(SharedStudy):
    """A study without trials, for its table. Use it in a `with` block.

    The arguments are `SharedStudy`'s.
    """

    def take(self, measure: Callable[[], str], tell: Callable[[str], None]) -> str:
        """The table's text.

        Args:
            measure: gives it, where this driver is the first.
            tell: is told that there is something to wait for.

        Raises:
            RunError: the first driver gave up, or takes too long.
        """
        if not self.first:
            self.wait_until_open(tell)
        elif self.terms() is None:
            text = measure()
            self.open({}, text)
            return text
        found = self.table()
        if found is None:
            raise RunError(f"the study {self.name!r} in {self.where} has no latency table")
        return found

    def __enter__(self) -> SharedTable:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the study back if its table was not measured, so that nobody waits for it."""
        try:
            if self.first and self._terms() is None:
                self._storage.delete_study(self._study)
        except Exception as problem:  # What a storage raises.
            if not is_away(problem):
                raise
        finally:
            self._rdb.engine.dispose()
