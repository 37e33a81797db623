"""Many networks measured a bounded number at a time, against one reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from autoprune.core.device import Artifact, Measurement, MeasuringProtocol

#: Networks are measured in chunks of at most this many sessions and bytes of ONNX at a time, so
#: that memory is bounded; the reference is run in every chunk.
CHUNK_SESSIONS = 64
CHUNK_BYTES = 1 << 30

#: Measures a reference and others that fit into memory together.
Measure = Callable[[list[Artifact], MeasuringProtocol], list[Measurement]]


def measure_in_chunks(
    artifacts: Sequence[Artifact],
    protocol: MeasuringProtocol,
    measure: Measure,
    *,
    sessions: int | None = None,
) -> list[Measurement]:
    """Measure all by calling `measure` with chunks of them, the reference first in each.

    Args:
        artifacts: the first is the reference.
        protocol: `timeout_s` is for all; each chunk gets an equal share.
        measure: gives one measurement for each of its artifacts.
        sessions: networks in a chunk at most, besides the reference.

    Returns:
        One measurement for each. Those of later chunks are told in latencies (and energies) of
        the first chunk's reference, so that all of them compare.
    """
    if not artifacts:
        return []
    results: dict[int, Measurement] = {}
    chunks = list(_chunks(artifacts, sessions or CHUNK_SESSIONS))
    share = replace(protocol, timeout_s=protocol.timeout_s / len(chunks))
    for chunk in chunks:
        measured = measure([artifacts[i] for i in (0, *chunk)], share)
        reference = results.setdefault(0, measured[0])
        for index, measurement in zip(chunk, measured[1:], strict=True):
            results[index] = _told_in(measurement, measured[0], reference)
    return [results[index] for index in range(len(artifacts))]


def reference_failed(artifacts: Sequence[Artifact], error: str) -> list[Measurement]:
    """The measurements where the reference can't be measured: there are no ratios."""
    reason = f"the reference (artifact {artifacts[0].key!r}) has no figure: {error}"
    return [Measurement(a.key, error=reason if i else error) for i, a in enumerate(artifacts)]


def _told_in(measurement: Measurement, beside: Measurement, reference: Measurement) -> Measurement:
    """Latency and energy of a later chunk, told in those of the first chunk's reference."""
    if not measurement.ok or beside is reference:
        return measurement
    if not reference.ok:  # nothing to compare with: the first chunk's failed
        return Measurement(
            measurement.key,
            error=f"the reference (artifact {reference.key!r}) has no figure: {reference.error}",
        )
    scale = reference.latency_ms / beside.latency_ms
    low, high = measurement.latency_interval_ms
    energy, first, here = measurement.energy_mj, reference.energy_mj, beside.energy_mj
    if energy is not None:
        energy = None if first is None or here is None else energy * first / here
    return replace(
        measurement,
        latency_ms=measurement.latency_ms * scale,
        latency_interval_ms=(low * scale, high * scale),
        energy_mj=energy,
        kernels=tuple(replace(k, latency_ms=k.latency_ms * scale) for k in measurement.kernels),
    )


def _chunks(artifacts: Sequence[Artifact], sessions: int) -> Iterator[list[int]]:
    """Indices of all but the reference, in chunks of bounded size; one empty chunk for none."""
    chunk: list[int] = []
    size = 0
    for index in range(1, len(artifacts)):
        length = len(artifacts[index].onnx)
        if chunk and (len(chunk) >= sessions or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += length
    yield chunk
