"""Kernels out of onnxruntime's own profile of networks, with the machine's drift taken out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile.neighbours import Core
from autoprune.profile.node_times import TOO_QUICK, Floats, NodeTimes, Source
from autoprune.profile.slopes import slopes

#: Rounds of profiled runs, each network in turn with the reference before and after it. What a
#: machine does changes from one to the next, hardly from run to run: many short ones tell most.
ROUNDS = 10

#: Profiled runs in a row, each round: one, and for short networks as many as take about this long,
#: but at most so many, for reading the profile of more takes longer than they do.
BLOCK_MS, MOST_RUNS = 3.0, 50

#: Before them a network that takes no longer than this is run once more: another one has had the
#: caches meanwhile. A whole network's latency is that of runs which find them warm.
WARM_MS = 40.0

#: A node that took less than the profile's clock tells took about so many microseconds.
CLOCK_US = 0.5

#: onnxruntime drops what a profile tells beyond so many events (a million, as measured); and how
#: many it tells of a run besides one for each node, at most.
MOST_EVENTS, PER_RUN = 950_000, 10


def _middle_mean(values: Floats) -> Floats:
    """The interquartile mean over the first axis: the profile counts whole microseconds."""
    ordered = np.sort(values, axis=0)
    cut = len(ordered) // 4
    middle: Floats = ordered[cut : len(ordered) - cut].mean(axis=0)
    return middle


class _Profiled:
    """A network that is profiled, and which of its runs belong to which block."""

    def __init__(self, make: Callable[[int], Source], number: int, core: Core | None) -> None:
        self.core = core
        self.blocks: list[tuple[int, int]] = []
        self.slowed: list[float] = []
        self.count = 0
        self.error = ""
        try:
            self.source = make(number)
        except ProfilerError as error:
            self.error = str(error)

    def block(self, runs: int, *, first: int) -> None:
        """Run it that many times, unless it failed before; the first ones do not count."""
        if self.error:
            return
        try:
            slowed = self._run(runs, first)
        except ProfilerError as error:
            self.error = str(error)
            return
        if first < runs:
            self.slowed.append(slowed)
            self.blocks.append((self.count + first, self.count + runs))
        self.count += runs

    def _run(self, runs: int, first: int) -> float:
        """Run it that many times; how slow its core was beside all but the first."""
        if self.core is None or first == runs:
            self.source.run(runs)
            return 0.0
        if first:
            self.source.run(first)
        before = self.core.slowed()
        self.source.run(runs - first)
        return (before + self.core.slowed()) / 2

    def read(self) -> tuple[NodeTimes, list[Floats]]:
        """Its nodes and their times, and for each block a (runs, nodes) array of microseconds.

        Those are without what else was at work on the core, each node's slope drawn towards the
        mean of all.

        Raises:
            ProfilerError: it failed, now or before.
        """
        if self.error:
            raise ProfilerError(self.error)
        found = self.source.read()
        blocks = [found.times_us[start:stop] for start, stop in self.blocks]
        slowed = np.array(self.slowed)
        if slowed.any():
            levels = np.log([np.maximum(np.median(b, axis=0), CLOCK_US) for b in blocks])
            told = slopes(list(levels.T), [slowed] * levels.shape[1])
            by_node = np.array([slope.value for slope in told])
            blocks = [b * np.exp(-by_node * s) for b, s in zip(blocks, slowed, strict=True)]
        return found, blocks

    def kernels(self, measurement: Measurement, found: NodeTimes, times_ms: Floats) -> Measurement:
        """The measurement with its kernels."""
        return replace(measurement, kernels=tuple(found.kernels(times_ms, self.source.fused)))


def profile_kernels(
    make: Callable[[int], Source],
    measured: Sequence[Measurement],
    protocol: MeasuringProtocol,
    core: Core | None = None,
) -> list[Measurement]:
    """Profile networks' nodes, the first one before and after each of the others.

    Or before and after `protocol.between` of them.

    Args:
        make: loads a network by its number to be profiled.
        measured: of each network, without profiling; the first is the reference, and is `ok`:
            its kernels are scaled to its latency, and with it all others.
        protocol: `warmup`, `seed` and `between` count.
        core: that networks run on, where it can be known what else is at work on it.

    Returns:
        The same with their kernels in the order of execution; one that can't be profiled has
        `error` set. Where the reference is too quick for the profile's clock, there are no
        kernels, and a note says so.
    """
    good = [i for i, m in enumerate(measured) if m.ok and i]
    events = _events(make)
    # So many beside one session of the reference: of networks of thousands of nodes, its profile
    # has no room for more.
    most = max(1, (MOST_EVENTS // events - max(1, protocol.warmup)) // ROUNDS - 1)
    results = list(measured)
    for start in range(0, max(1, len(good)), most):
        part = [0, *good[start : start + most]]
        found = _profile_some(make, part, measured, protocol, events, core)
        if not found[0].ok:
            return [Measurement(m.key, error=m.error or found[0].error) for m in measured]
        for number, measurement in zip(part, found, strict=True):
            if number or not start:
                results[number] = measurement
    return results


def _profile_some(
    make: Callable[[int], Source],
    numbers: Sequence[int],
    measured: Sequence[Measurement],
    protocol: MeasuringProtocol,
    events: int,
    core: Core | None,
) -> list[Measurement]:
    """As `profile_kernels`, of some of the networks, by their numbers: the reference first."""
    measured = [measured[number] for number in numbers]
    results = list(measured)
    runs = _runs_in_a_row([m.latency_ms for m in measured], events)
    profiled = [_Profiled(make, number, core) for number in numbers]
    visits = _run_rounds(profiled, runs, protocol)
    try:
        found, blocks = profiled[0].read()
    except ProfilerError as error:
        reason = f"the reference has no profile: {error}"
        return [Measurement(m.key, error=reason) for m in measured]
    # How slow the machine was in each of the reference's blocks, 1 on average: the
    # time-weighted median over its nodes, so that an interrupted node does not count.
    levels = np.array([np.median(block, axis=0) for block in blocks])
    usual = np.median(levels, axis=0)
    slow = np.array([_slowness(level, usual) for level in levels])
    mean = _middle_mean(np.concatenate(
        [block / factor for block, factor in zip(blocks, slow, strict=True)]))  # fmt: skip
    total_us = float(mean.sum())
    if not total_us:
        return [replace(m, notes=(*m.notes, TOO_QUICK)) for m in measured]
    scale = measured[0].latency_ms / total_us
    results[0] = profiled[0].kernels(measured[0], found, mean * scale)
    for at, (own, beside) in enumerate(zip(profiled[1:], visits[1:], strict=True), 1):
        try:
            found, blocks = own.read()
        except ProfilerError as error:
            results[at] = Measurement(measured[at].key, error=str(error))
            continue
        mean = _middle_mean(np.concatenate(
            [block / math.sqrt(slow[before] * slow[before + 1])
             for block, before in zip(blocks, beside, strict=True)]))  # fmt: skip
        results[at] = own.kernels(measured[at], found, mean * scale)
    return results


def _events(make: Callable[[int], Source]) -> int:
    """How many a run of the reference has in its profile, at most."""
    try:
        trial = make(0)
        trial.run(1)
        return len(trial.read().nodes) + PER_RUN
    except ProfilerError:
        return PER_RUN  # it fails again, where its error is told


def _runs_in_a_row(latencies_ms: Sequence[float], events: int) -> list[tuple[int, int]]:
    """Of each so many that a block lasts long enough, and the first of them that do not count.

    So that the reference's profile has room for them.
    """
    found = []
    for number, ms in enumerate(latencies_ms):
        first = int(ms <= WARM_MS)
        runs = first + max(1, math.ceil(min(MOST_RUNS, BLOCK_MS / ms)))
        if not number:
            room = MOST_EVENTS // (ROUNDS * len(latencies_ms) * events)
            runs = max(1, min(runs, room))
        found.append((runs, min(first, runs - 1)))
    return found


def _run_rounds(
    profiled: list[_Profiled], blocks: Sequence[tuple[int, int]], protocol: MeasuringProtocol
) -> list[list[int]]:
    """Run all; for each one and round, which of the reference's blocks came before it."""
    rng = np.random.default_rng(protocol.seed)
    reference, others = profiled[0], profiled[1:]
    visits: list[list[int]] = [[] for _ in profiled]

    def visit(number: int) -> None:
        runs, first = blocks[number]
        profiled[number].block(runs, first=first)

    warmup = max(1, protocol.warmup)
    for each in profiled:
        each.block(warmup, first=warmup)
    for _ in range(ROUNDS):
        visit(0)
        order = rng.permutation(len(others)).tolist()
        for start in range(0, len(order), protocol.between):
            for index in order[start : start + protocol.between]:
                visit(index + 1)
                visits[index + 1].append(len(reference.blocks) - 1)
            visit(0)
    return visits


def _slowness(level: Floats, usual: Floats) -> float:
    """The weighted median of a block's times over the usual; 1 where they are below the clock."""
    order = np.argsort(level / np.maximum(usual, 1e-9))
    cumulative = np.cumsum(usual[order])
    middle = order[np.searchsorted(cumulative, cumulative[-1] / 2)]
    return float(level[middle] / usual[middle]) if level[middle] and usual[middle] else 1.0
