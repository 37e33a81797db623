"""The search from beginning to end: the loop, the store, run folders, resume."""

from autoprune.study.api import resume, search, search_config
from autoprune.study.config import RecoverSettings, SearchConfig, TableSettings, VerifySettings
from autoprune.study.progress import Progress
from autoprune.study.result import Result

__all__ = [
    "Progress",
    "RecoverSettings",
    "Result",
    "SearchConfig",
    "TableSettings",
    "VerifySettings",
    "WorkerSettings",
    "resume",
    "search",
    "search_config",
]
