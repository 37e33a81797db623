"""Settings of the whole test run; `tests/` itself is on the path, so tests `import zoo`."""

import os

import pytest
import torch

torch.set_num_threads(1)


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
