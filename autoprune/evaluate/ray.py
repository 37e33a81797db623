"""A pool that evaluates on Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.evaluate.base import EvaluatorPool, Outcome, Work
from autoprune.evaluate.packed import Packed
from autoprune.evaluate.ray_cluster import Cluster, actor_options, connected
from autoprune.evaluate.ray_errors import cause_of
from autoprune.evaluate.ray_worker import Worker

#: Workers that may die in a row while they are made ready, for each worker asked for.
STARTS = 3
#: Seconds after which a waiting driver looks whether the cluster is there, and after which lost
#: workers are replaced.
LOOK_S, SETTLE_S = 5.0, 0.5
#: Seconds after which a driver that submits looks for workers that are done.
POLL_S = 0.01
#: For every so many workers one candidate more is asked for than there are workers. It waits in
#: line, so that whoever is done need not wait until the searcher has been told.
AHEAD = 20
#: The latter grows by this when as many died as there are, before they were ready: what they lack
#: (memory that others hold for a moment) may be there again a little later.
PATIENCE = 4.0


@dataclass
class _Job:
    """A candidate on its way.

    Attributes:
        ticket: its name.
        candidate: what is evaluated.
        lost: how often a worker died or hung over it.
    """

    ticket: int
    candidate: Candidate
    lost: int = 0


@dataclass
class _Running:
    """A job on a worker, and the moment from which it counts as hanging; inf until it begins."""

    job: _Job
    actor: Any
    deadline: float = field(default=math.inf)


class RayPool(EvaluatorPool):
    """Evaluates on workers of their own, each a process that is made ready once.

    A worker that dies (killed, out of memory, its node lost) is replaced, and the evaluation it
    was at is run again on another one, `retries` times at most; then it counts as failed. One that
    takes longer than `timeout_s` is killed and dealt with in the same way. A cluster whose head is
    gone is waited for, ten minutes at most. Finished evaluations are never run again.

    In order of submission (`ordered`), the order of the outcomes depends on nothing but the number
    of workers: the same seed then gives the same trials however long each evaluation takes; a
    worker may then stand idle until a slower one before it is done.

    Args:
        source: called once in each worker; gives what evaluates a candidate. It is sent to the
            cluster once, and each node takes it from its object store.
        workers: how many.
        address: of a cluster, as `connected` takes it; None starts Ray on this machine.
        resources: that each worker holds: cpu, gpu (fractions too), memory_bytes or custom ones.
        timeout_s: seconds that one evaluation may take; None waits.
        retries: how often an evaluation is run again after its worker died or hung.
        ordered: whether results come in the order of submission.

    Raises:
        ConfigError: a setting is out of range, the cluster can't be used, or no node has the
            resources.
        MissingDependencyError: Ray is not installed.
        EvaluationError: the workers can't be made ready.
        RunError: Ray can't be started here.
    """

    def __init__(
        self,
        source: Callable[[], Work],
        workers: int,
        *,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
        retries: int = 2,
        ordered: bool = False,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"timeout_s must be greater than 0, got {timeout_s}")
        if retries < 0:
            raise ConfigError(f"retries must be at least 0, got {retries}")
        self._workers = workers
        self._resources = dict(resources or {"cpu": 1})
        self._timeout_s = timeout_s
        self._retries = retries
        self._ordered = ordered
        self._line: deque[_Job] = deque()
        self._order: dict[int, None] = {}
        self._done: dict[int, Outcome] = {}
        self._idle: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, _Running] = {}
        self._entering: dict[Any, _Running] = {}
        self._lost_workers: list[Any] = []
        self._replaced_at = math.inf
        self._looked = time.monotonic()
        self._failed_starts = 0
        with ExitStack() as stack:
            # A Ray that is started just for this pool has room for its workers, and no more.
            own = math.ceil(workers * self._resources.get("cpu", 0))
            cpus = own if address is None else None
            self._cluster: Cluster = stack.enter_context(connected(address, cpus=cpus))
            self._cluster.require(self._resources)
            self._ray = self._cluster.ray
            self._packed = Packed.of(source, "the evaluation")
            self._source = self._ray.put(self._packed)
            stack.callback(self._kill_all)
            for _ in range(workers):
                self._start()
            self._stack = stack.pop_all()

    @property
    def slots(self) -> int:
        """One candidate for each worker, and with many of them a few to go on with."""
        return self._workers + self._workers // AHEAD

    def begin(self) -> None:
        """Wait until a worker is ready."""
        while not self._idle and not self._running:
            self._wait()

    def submit(self, ticket: int, candidate: Candidate) -> None:
        """Send a candidate to a worker, or put it in line for the next one that is free."""
        self._order[ticket] = None
        self._line.append(_Job(ticket, candidate))
        if not self._idle and time.monotonic() - self._looked >= POLL_S:
            self._wait(0.0)
        self._dispatch()

    def results(self) -> list[tuple[int, Outcome]]:
        """Wait for an evaluation that ends, or for the oldest one where they are ordered.

        All that have ended by then come at once.

        Raises:
            EvaluationError: the workers can't be made ready.
            RunError: the cluster is gone and does not come back.
        """
        while self._order:
            found = self._finished()
            self._dispatch()
            if found:
                return found
            self._wait()
        return []

    def _finished(self) -> list[tuple[int, Outcome]]:
        """What has ended: as it came, or in the order of submission up to the first gap."""
        if self._ordered:
            ready = list(itertools.takewhile(self._done.__contains__, self._order))
        else:
            ready = list(self._done)
        for ticket in ready:
            del self._order[ticket]
        return [(ticket, self._done.pop(ticket)) for ticket in ready]

    def close(self) -> None:
        """End the workers, and Ray if it was started for them."""
        self._line.clear()
        self._order.clear()
        self._stack.close()

    # -- workers -------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make a worker; it is used as soon as it is ready, be that when a node has room."""
        options = {**actor_options(self._resources), "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(Worker).options(**options).remote()
        self._starting[actor.prepare.remote(self._source)] = actor

    def _dispatch(self) -> None:
        while self._idle and self._line:
            running = _Running(self._line.popleft(), self._idle.popleft())
            if self._timeout_s is not None:
                # The time in which it waits for a measurement on its machine does not count.
                self._entering[running.actor.enter.remote()] = running
            self._running[running.actor.evaluate.remote(running.job.candidate)] = running

    def _wait(self, left: float = LOOK_S) -> None:
        """Until something happens: a worker is ready, done, dead or late; or for a moment.

        Args:
            left: seconds, at most.
        """
        if self._timeout_s is not None:
            deadline = min((r.deadline for r in self._running.values()), default=math.inf)
            left = min(max(deadline - time.monotonic(), 0.0), left)
        if self._lost_workers:
            left = min(left, max(self._replaced_at - time.monotonic(), 0.0))
        refs = [*self._running, *self._starting, *self._entering]
        try:
            ready: list[Any] = []
            if refs:
                ready, others = self._ray.wait(refs, num_returns=1, timeout=left)
                if ready and others:
                    # All that came meanwhile: one look at many is cheaper than many looks.
                    more, _ = self._ray.wait(others, num_returns=len(others), timeout=0)
                    ready += more
            else:
                time.sleep(left)
            self._looked = time.monotonic()
            for ref in ready:
                self._came(ref)
            self._end_late()
            if self._cluster.away():
                self._rejoin()
            if self._lost_workers and time.monotonic() >= self._replaced_at:
                self._replace_workers()
            if not self._running and not self._idle:
                self._cluster.await_room(self._resources)
        except (self._ray.exceptions.RaySystemError, ConnectionError):
            self._rejoin()

    def _came(self, ref: Any) -> None:
        if ref in self._running:
            self._ended(ref)
        elif ref in self._starting:
            self._started(ref)
        else:
            self._entering.pop(ref).deadline = time.monotonic() + (self._timeout_s or 0)

    def _replace(self, actor: Any) -> None:
        """Have a worker replaced, in a moment."""
        if not self._lost_workers:
            delay_s = SETTLE_S * PATIENCE ** (self._failed_starts / self._workers)
            self._replaced_at = time.monotonic() + delay_s
        self._lost_workers.append(actor)

    def _replace_workers(self) -> None:
        # Where a node or the whole cluster ends, its workers may be the first that are missed.
        if self._cluster.away(now=True):
            self._rejoin()
            return
        for actor in self._lost_workers:
            self._kill(actor)
            self._start()
        self._lost_workers.clear()

    def _rejoin(self) -> None:
        """The cluster's head is gone: with a new one, begin what was under way again."""
        under_way = [running.job for running in self._running.values()]
        self._line.extendleft(reversed(under_way))
        self._forget_workers()
        self._cluster.rejoin()
        self._source = self._ray.put(self._packed)
        for _ in range(self._workers):
            self._start()

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        errors = self._ray.exceptions
        try:
            problem = self._ray.get(ref)
        except errors.RayTaskError as error:
            raise EvaluationError(
                f"a worker can't be made ready: {cause_of(error)}. It runs in a process of its "
                "own: what the evaluation imports and reads must be there on every node"
            ) from error
        except (errors.RayActorError, errors.RayError) as error:
            self._failed_starts += 1
            if self._failed_starts >= STARTS * self._workers:
                raise EvaluationError(
                    f"workers died {self._failed_starts} times in a row before they were ready: "
                    f"{cause_of(error)}. They may need more memory than there is: ask for fewer "
                    "workers, or give each resources such as {cpu: 1, memory_bytes: 4e9}"
                ) from error
            self._replace(actor)
            return
        if problem is not None:
            raise EvaluationError(f"a worker can't be made ready: {problem}")
        self._failed_starts = 0
        self._idle.append(actor)

    def _ended(self, ref: Any) -> None:
        running = self._running.pop(ref)
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(ref)
        except errors.RayTaskError as error:
            # The worker lives; what it ran raised what no evaluation should.
            outcome = Outcome(error=f"the worker raised {cause_of(error)}")
        except errors.RayError as error:
            self._lost(running, f"its worker died ({cause_of(error)})")
            return
        self._done[running.job.ticket] = outcome
        self._idle.append(running.actor)

    def _end_late(self) -> None:
        now = time.monotonic()
        for ref in [ref for ref, r in self._running.items() if r.deadline <= now]:
            self._lost(self._running.pop(ref), f"it took longer than {self._timeout_s:g} s")

    def _lost(self, running: _Running, why: str) -> None:
        """Have a worker replaced; run what it was at again, or give that up."""
        self._replace(running.actor)
        job = running.job
        job.lost += 1
        if job.lost > self._retries:
            again = f", {job.lost} times" if job.lost > 1 else ""
            self._done[job.ticket] = Outcome(error=f"the evaluation was given up{again}: {why}")
        else:
            self._line.appendleft(job)

    def _kill(self, actor: Any) -> None:
        """End a worker's process at once, whatever it is at."""
        if self._ray.is_initialized():
            self._ray.kill(actor, no_restart=True)

    def _kill_all(self) -> None:
        for actor in (
            *self._idle,
            *self._starting.values(),
            *(running.actor for running in self._running.values()),
            *self._lost_workers,
        ):
            self._kill(actor)
        self._forget_workers()

    def _forget_workers(self) -> None:
        for known in (self._idle, self._starting, self._running, self._entering):
            known.clear()
        self._lost_workers.clear()
