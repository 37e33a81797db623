"""The search from beginning to end: the loop, the store, run folders, resume."""

from autoprune.study.api import resume, search, search_config
from autoprune.study.config import SearchConfig, TableSettings, VerifySettings
from autoprune.study.progress import Progress
from autoprune.study.result import Result

__all__ = [
    "Progress",
    "Result",
    "SearchConfig",
    "TableSettings",
    "VerifySettings",
    "resume",
    "search",
    "search_config",
]
