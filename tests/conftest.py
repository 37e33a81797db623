"""Settings of the whole test run; `tests/` itself is on the path, so tests `import zoo`."""

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# A busy machine may take long over an example; that says nothing of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="module", autouse=True)
def _collector_leaves_what_is_imported():
    """The collector looks at what a test file makes, not at torch's half a million objects.

    Every measurement collects garbage before it begins, and exports make enough that it is
    collected often: this halves the time of a small search.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _locks_of_this_run(tmp_path_factory):
    """Tests wait for no search or measurement that runs on this machine beside them."""
    os.environ["AUTOPRUNE_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
    yield
    del os.environ["AUTOPRUNE_LOCKS"]


@pytest.fixture(scope="session", autouse=True)
def _no_tables_of_other_runs():
    """Tests take over no kernel times that were measured before, and keep none."""
    os.environ["AUTOPRUNE_TABLES"] = ""
    yield
    del os.environ["AUTOPRUNE_TABLES"]
