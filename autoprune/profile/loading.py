"""Networks are loaded, and those that load are timed beside the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoprune.core.device import Artifact, Measurement, MeasuringProtocol
from autoprune.profile.chunks import reference_failed
from autoprune.profile.measuring import Runner, Visitor, measure_interleaved

#: Characters of an exception that are told at most.
MOST = 1000

#: Loads a network and gives what runs it.
Load = Callable[[Artifact], Runner | Visitor]


def load_and_measure(
    runtime: str,
    load: Load,
    artifacts: Sequence[Artifact],
    protocol: MeasuringProtocol,
    errors: Mapping[int, str] | None = None,
) -> list[Measurement]:
    """Load each network, and measure those that load as `measure_interleaved` does.

    Args:
        runtime: its name, for messages.
        load: gives a network's runner, which was run once; what it raises is that network's
            error.
        artifacts: the first is the reference.
        protocol: as of `measure_interleaved`.
        errors: by number, of networks that are known not to load.

    Returns:
        One measurement for each, in order.
    """
    failed = dict(errors or {})
    runners: dict[int, Runner | Visitor] = {}
    for index, artifact in enumerate(artifacts):
        if index not in failed:
            try:
                runners[index] = load(artifact)
            except Exception as error:  # whatever the runtime raises belongs to this network
                failed[index] = f"{runtime} can't run it: {short(error)}"
        if 0 in failed:
            return reference_failed(artifacts, failed[0])
    keys = [artifacts[i].key for i in runners]
    measured = dict(
        zip(runners, measure_interleaved(keys, list(runners.values()), protocol), strict=True)
    )
    return [
        measured[i] if i in measured else Measurement(artifact.key, error=failed[i])
        for i, artifact in enumerate(artifacts)
    ]


def short(error: Exception) -> str:
    """An exception's kind and first lines: compilers say a great deal."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= MOST else text[:MOST] + "…"
