"""How many threads a runtime may be told to use."""

from __future__ import annotations

import os

from autoprune.core.errors import ProfilerError


def checked_threads(threads: object) -> int:
    """A number of threads; how many processors there are is not looked at.

    Raises:
        ProfilerError: it is no integer of at least 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ProfilerError(f"threads must be an integer of at least 1, got {threads!r}")
    return threads


def check_threads(threads: object) -> None:
    """Whether it is a number of threads that this machine can run at once.

    Raises:
        ProfilerError: it is no integer of at least 1, or more than there are processors.
    """
    threads = checked_threads(threads)
    processors = os.cpu_count() or threads
    if threads > processors:
        raise ProfilerError(
            f"threads must be at most {processors}, the processors there are; got {threads} (more "
            "only wait for each other)"
        )
