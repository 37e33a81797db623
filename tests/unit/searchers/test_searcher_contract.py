"""The contract suite, run on every built-in searcher."""

import pytest

from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.registry import BUILTIN, make_searcher
from autoprune.testing import searchers as suite


@pytest.mark.parametrize("check", suite.CHECKS)
@pytest.mark.parametrize("name", BUILTIN)
def test_contract(name, check):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    if name == "gp" and check != "exhausts":
        pytest.skip("seconds a proposal; the other samplers check the same bridge")
    options = {"hidden": 16, "updates": 4} if name == "amc" else {}
    suite.CHECKS[check](lambda context: make_searcher(name, context, **options))


class Repeats(suite.Searcher):
    """Suggests the same candidate for ever."""

    def suggest(self, count=1):
        return [self.context.space.smallest] * count

    def update(self, completed, pending=()):
        pass


class Dense(Repeats):
    """Ignores the budget."""

    def suggest(self, count=1):
        return [self.context.space.largest]


class Forgetful(ProposingSearcher):
    """Spreads wider from suggestion to suggestion, and says that it needs no replay."""

    replays = False
    spread = 0.1

    def _propose(self):
        self.spread = min(0.9, self.spread + 0.02)
        return self._hold(self.space.units * (1 - self.spread * self.rng.random(len(self.space))))


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (Repeats, "never_repeats", "again"),
        (Repeats, "exhausts", "nothing is left"),
        (Dense, "holds_budget", "breaks the budget"),
        (Forgetful, "resumes", "did not go on as one that suggested them"),
    ],
)
def test_suite_catches(broken, check, message):
    with pytest.raises(suite.ContractError, match=message):
        suite.CHECKS[check](broken)
