"""The search from beginning to end: the loop, the store, run folders, resume."""

from autoprune.study.api import resume, search, search_config
from autoprune.study.config import SearchConfig
from autoprune.study.picking import pick
from autoprune.study.progress import Progress
from autoprune.study.result import Result
from autoprune.study.settings import RecoverSettings, TableSettings, VerifySettings

__all__ = [
    "Progress",
    "RecoverSettings",
    "Result",
    "SearchConfig",
    "TableSettings",
    "VerifySettings",
    "WorkerSettings",
    "pick",
    "resume",
    "search",
    "search_config",
]
