"""A Ray cluster to work on: one started here, or one that is there already."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import ConfigError, MissingDependencyError, RunError
from autoprune.evaluate.ray_address import answers, check_answers
from autoprune.evaluate.ray_errors import explained, first_line, no_client_server

#: Seconds between two looks whether the head is there, and for which it or a node may be away.
LOOK_S, AWAY_S = 2.0, 600.0
#: How often a head is asked for a server of Ray's client; on a busy machine one may start too late.
CLIENT_TRIES = 3
#: Of the object store of a Ray started here; the networks and batches of a search are small.
STORE_BYTES = 512 * 2**20
#: Ray's own names of resources; others are custom ones.
_BUILTIN = {"cpu": "CPU", "gpu": "GPU", "memory_bytes": "memory"}


def import_ray() -> Any:
    """The `ray` module; nothing else in autoprune imports it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # Ray would send statistics of its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _without_parent():
            import ray
    except ImportError as error:
        raise MissingDependencyError(
            "workers need Ray, which is not installed; install it by pip install 'autoprune[ray]', "
            "or leave workers and the Ray address out"
        ) from error
    except Exception as error:  # Ray asks drivers' packages for GPUs as it is imported.
        hint = (
            ". The package amdsmi (zeus brings it) can't be used without AMD's driver: "
            "pip uninstall amdsmi"
            if "amd" in str(error).lower()
            else "; see that `python -c 'import ray'` works"
        )
        raise MissingDependencyError(
            f"Ray is installed, but can't be imported: {type(error).__name__}: {error}{hint}"
        ) from error
    return ray


@contextlib.contextmanager
def _without_parent() -> Iterator[None]:
    """Import Ray so that it lets this process go on when its own machine's Ray is gone.

    Ray reads in this variable, once, whose death ends a process. For a driver it is empty, and
    then its parent's is taken: one whose shell has ended (nohup, a service, a container) would
    end together with the head instead of waiting for it. So a driver names itself.
    """
    name = "RAY_RAYLET_PID"
    if name in os.environ:  # a worker: Ray has named its node
        yield
        return
    os.environ[name] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[name]


@dataclass
class Cluster:
    """A connection to Ray.

    Attributes:
        ray: the module.
        owned: whether this process started the cluster, and ends it.
        address: for people.
        join: connects again, where this connection is ours to give up.
        head: host and port of the head, where it is known.
    """

    ray: Any
    owned: bool
    address: str
    join: Callable[[], None] | None = None
    head: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        self._looked = time.monotonic()
        self._without_since: float | None = None

    def away(self, *, now: bool = False) -> bool:
        """Whether the head does not answer; looked at every few seconds, or now."""
        if self.head is None or (not now and time.monotonic() - self._looked < LOOK_S):
            return False
        self._looked = time.monotonic()
        # Once may be the network's fault.
        return not (answers(self.head) or answers(self.head))

    def rejoin(self) -> None:
        """Leave a cluster whose head is gone, wait for it, and connect again.

        Ray itself would end this process after a minute without the head.

        Raises:
            RunError: it stays away, or the connection is another's.
            ConfigError: what is there now can't be used.
        """
        gone = f"the head of the Ray cluster ({self.address}) does not answer"
        later = "When it is there again, resume the run: everything finished is kept"
        if self.join is None:
            raise RunError(f"{gone}. {later}")
        warnings.warn(f"{gone}; what is finished is kept, waiting for it", stacklevel=2)
        self.ray.shutdown()
        until = time.monotonic() + AWAY_S
        while True:
            if self.owned or self.head is None or answers(self.head):
                try:
                    self.join()
                except (ConfigError, RunError):
                    # A head that has just been started answers before it is ready.
                    if self.owned or time.monotonic() > until:
                        raise
                else:
                    self.head = _head(self.ray, self.address)
                    return
            if time.monotonic() > until:
                raise RunError(f"{gone} for {AWAY_S:.0f} s. {later}")
            time.sleep(1.0)

    def room(self, resources: Mapping[str, float]) -> int:
        """How many workers of these resources the nodes that are there now have room for."""
        wanted = {ray_name(name): amount for name, amount in resources.items() if amount > 0}
        if not wanted:
            return 2**31
        total = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                total += int(min(has.get(n, 0.0) / a + 1e-9 for n, a in wanted.items()))
        return total

    def await_room(self, resources: Mapping[str, float]) -> None:
        """Look whether the nodes that had room are still there; others may take their place.

        Called now and then by who waits for the resources.

        Raises:
            RunError: no node has them for as long as one may be away.
        """
        if self.room(resources) > 0:
            self._without_since = None
            return
        gone = f"no node of the Ray cluster ({self.address}) has {_told(resources)} any more"
        if self._without_since is None:
            self._without_since = time.monotonic()
            warnings.warn(f"{gone}; what is finished is kept, waiting for one", stacklevel=2)
        elif time.monotonic() - self._without_since > AWAY_S:
            raise RunError(
                f"{gone}, for {AWAY_S:.0f} s. When there is one again, resume the run: everything "
                "finished is kept"
            )

    def require(self, resources: Mapping[str, float]) -> None:
        """Refuse resources that no node has, instead of waiting for them for ever.

        Raises:
            ConfigError: says what is asked for and what each node has.
        """
        if self.room(resources) > 0:
            return
        nodes = [n for n in self.ray.nodes() if n["Alive"]]
        have = "; ".join(f"{n['NodeManagerAddress']}: {_told(n['Resources'])}" for n in nodes)
        raise ConfigError(
            f"no node of the Ray cluster ({self.address}) has the resources that one worker needs "
            f"({_told(resources)}); there are {have or 'no nodes'}. Ask for less, or start a node "
            "that has them (ray start --resources ...)"
        )


def check_own(resources: Mapping[str, float]) -> None:
    """Refuse what a Ray that is started on this machine will not have, before it is started.

    Raises:
        ConfigError: a custom resource, or more GPUs than there are.
    """
    import torch

    custom = [name for name, amount in resources.items() if name not in _BUILTIN and amount > 0]
    if custom:
        raise ConfigError(
            f"a Ray that is started just for this run has no resource {custom[0]!r}: leave it "
            "out, or give the address of a cluster that has it (--ray-address)"
        )
    gpus = torch.cuda.device_count()
    if resources.get("gpu", 0) > gpus:
        raise ConfigError(
            f"each worker needs gpu {resources['gpu']:g}, and this machine has {gpus}: ask for "
            "less, or give the address of a cluster that has more (--ray-address)"
        )


def ray_name(name: str) -> str:
    """Ray's name of a resource: cpu, gpu, memory_bytes, or a custom one as it is."""
    return _BUILTIN.get(name, name)


def actor_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Resources as options of a Ray actor or task."""
    options: dict[str, Any] = {"num_cpus": resources.get("cpu", 0)}
    if resources.get("gpu"):
        options["num_gpus"] = resources["gpu"]
    if resources.get("memory_bytes"):
        options["memory"] = resources["memory_bytes"]
    custom = {n: a for n, a in resources.items() if n not in _BUILTIN and a > 0}
    if custom:
        options["resources"] = custom
    return options


def _told(resources: Mapping[str, float]) -> str:
    shown = {
        name: amount
        for name, amount in resources.items()
        if not name.startswith("node:") and name not in ("memory", "object_store_memory")
    }
    return ", ".join(f"{name} {amount:g}" for name, amount in shown.items()) or "nothing"


@contextlib.contextmanager
def connected(
    address: str | None = None,
    *,
    cpus: float | None = None,
    resources: Mapping[str, float] | None = None,
) -> Iterator[Cluster]:
    """Connect to a cluster, or start Ray on this machine; given back at the end of the block.

    A process that is connected already stays connected, to what it was.

    Args:
        address: "auto", "host:port" or "ray://host:port" of a cluster; None starts Ray here.
        cpus: of the Ray started here; None takes the machine's.
        resources: custom resources of the Ray started here.

    Raises:
        MissingDependencyError: Ray, or its client for a ray:// address, is not installed.
        ConfigError: no cluster is there, it is one of another Ray or Python version, or it does
            not take this process's token.
        RunError: Ray can't be started here.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield Cluster(ray, False, address or "of this process", head=_head(ray, address))
        return

    def join() -> None:
        _join(ray, address, cpus, resources)

    join()
    try:
        yield Cluster(ray, address is None, address or "on this machine", join, _head(ray, address))
    finally:
        ray.shutdown()


def _join(
    ray: Any, address: str | None, cpus: float | None, resources: Mapping[str, float] | None
) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        own = {
            "num_cpus": cpus,
            "resources": dict(resources or {}) or None,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
        try:
            ray.init(address="local", **options, **own)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            raise RunError(f"Ray can't be started on this machine: {first_line(error)}") from error
        return
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise explained(ImportError("ray[client]"), address)
    check_answers(address)
    for tried in range(1, CLIENT_TRIES + 1):
        try:
            ray.init(address=address, **options)
            return
        except (Exception, SystemExit) as error:  # Ray raises many kinds, and exits on some.
            if tried == CLIENT_TRIES or not no_client_server(error):
                raise explained(error, address) from error


def _head(ray: Any, address: str | None) -> tuple[str, int] | None:
    """Host and port at which the head of the cluster answers that this process is connected to."""
    if address is None or not address.startswith("ray://"):
        address = ray.get_runtime_context().gcs_address
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None
