"""A device of a Ray cluster as a profiler: measured on the node that has it, by one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    Measurement,
    MeasuringProtocol,
    ModuleCall,
)
from autoprune.core.errors import AutopruneError, ConfigError, ProfilerError, RunError
from autoprune.evaluate.packed import Packed
from autoprune.evaluate.quiet import measuring
from autoprune.evaluate.ray_cluster import actor_options, connected, import_ray

#: Seconds between two looks whether a node still has the device.
LOOK_S = 5.0
#: How often a measurement whose node was lost is taken again, when a node has the device again.
RETRIES = 5


class RayProfiler:
    """Measures on a node of a Ray cluster that has a device as a custom resource.

    The node says so when it is started: `ray start --resources '{"device:jetson-orin-1": 1}'`.
    The resource is held while something is measured, so that one measurement runs at a time, and
    no evaluation of autoprune's workers runs on that node meanwhile. A measurement whose node is
    lost is taken again when a node has the device again; after ten minutes without one it fails.

    In a config::

        device:
          name: autoprune.evaluate.ray_device:RayProfiler
          options: {resource: "device:jetson-orin-1", profiler: onnxruntime-cpu, address: auto}

    Args:
        resource: the custom resource, of which a measurement holds 1.
        profiler: the device's profiler on that node: a name, or `package.module:Name`.
        options: keyword arguments of that profiler.
        address: of the cluster; needed where this process is not connected to it already.

    Raises:
        ConfigError: the cluster can't be used, or no node has the resource.
        ProfilerError: the profiler can't run on that node.
    """

    #: A meter that reads this machine says nothing of what it measures; the node's is an option of
    #: the profiler there.
    remote = True

    #: It keeps evaluations away from its measurements by itself, on the device's node.
    quiet = True

    def __init__(
        self,
        resource: str,
        profiler: str,
        options: Mapping[str, Any] | None = None,
        address: str | None = None,
    ) -> None:
        self._stack = ExitStack()
        ray = import_ray()
        if address is None and not ray.is_initialized():
            raise ConfigError(
                f"the device {resource!r} is one of a Ray cluster: give the cluster's address "
                "(auto, on one of its nodes)"
            )
        cluster = self._stack.enter_context(connected(address))
        self._ray, self._cluster = cluster.ray, cluster
        self._held = {"cpu": 0.0, resource: 1.0}
        cluster.require(self._held)
        self._resource = resource
        self._made = (profiler, dict(options or {}))

    @cached_property
    def device(self) -> DeviceSpec:
        """What it measures on, as the profiler on that node says."""
        spec: DeviceSpec = self._there(_spec, *self._made)
        return spec

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure on the node that has the device; waits while another one measures there."""
        sent = [_sent(artifact, modules="pytorch" in self._made[0]) for artifact in artifacts]
        found: list[Measurement] = self._there(_measure, *self._made, sent, protocol)
        return found

    def close(self) -> None:
        """Leave the cluster, if this profiler was the one that connected to it."""
        self._stack.close()

    def _there(self, function: Any, *arguments: Any) -> Any:
        options = {**actor_options(self._held), "max_retries": RETRIES, "max_calls": 1}
        task = self._ray.remote(**options)(_run)
        packed = Packed.of((function, arguments), "the measurement")
        ref = task.remote(packed)
        try:
            while not self._ray.wait([ref], timeout=LOOK_S)[0]:
                self._cluster.await_room(self._held)
            found, error = self._ray.get(ref)
        except RunError as problem:
            self._ray.cancel(ref, force=True)
            raise ProfilerError(f"the node with {self._resource} is gone: {problem}") from problem
        except self._ray.exceptions.RayTaskError as problem:
            raise ProfilerError(
                f"measuring on {self._resource} failed: {type(problem.cause).__name__}: "
                f"{problem.cause}"
            ) from problem
        except self._ray.exceptions.RayError as problem:
            text = str(problem).strip().splitlines()
            raise ProfilerError(
                f"the node with {self._resource} was lost {RETRIES + 1} times while it measured: "
                f"{text[0] if text else type(problem).__name__}"
            ) from problem
        if error is not None:
            raise ProfilerError(f"on the node with {self._resource}: {error}")
        return found


@dataclass(frozen=True)
class _Made:
    """A module that was made here."""

    made: ModuleCall

    def __call__(self) -> ModuleCall:
        return self.made


def _sent(artifact: Artifact, *, modules: bool) -> Artifact:
    """An artifact that can be sent: what makes its module stays here, the module may go along."""
    call = artifact.call
    return replace(artifact, call=_Made(call()) if modules and call is not None else None)


def _run(packed: Packed) -> tuple[Any, str | None]:
    """Runs on the node: the result, or why there is none."""
    function, arguments = packed.unpack()
    try:
        return function(*arguments), None
    except AutopruneError as error:
        return None, str(error)


def _spec(profiler: str, options: Mapping[str, Any]) -> DeviceSpec:
    from autoprune.profile.registry import make_profiler

    return make_profiler(profiler, **options).device


def _measure(
    profiler: str,
    options: Mapping[str, Any],
    artifacts: list[Artifact],
    protocol: MeasuringProtocol,
) -> list[Measurement]:
    from autoprune.profile.registry import make_profiler

    made = make_profiler(profiler, **options)
    with measuring():
        return made.measure(artifacts, protocol)
