"""How many threads a runtime on this machine's processor may be told to use."""

from __future__ import annotations

import os

from autoprune.core.errors import ProfilerError


def check_threads(threads: object) -> None:
    """Whether it is a number of threads that this machine can run at once.

    Raises:
        ProfilerError: it is no integer of at least 1, or more than there are processors.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ProfilerError(f"threads must be an integer of at least 1, got {threads!r}")
    processors = os.cpu_count() or threads
    if threads > processors:
        raise ProfilerError(
            f"threads must be at most {processors}, the processors there are; got {threads} (more "
            "only wait for each other)"
        )
