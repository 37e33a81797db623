"""A Ray cluster to work on: one started here, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError, ConfigError, MissingDependencyError, RunError

#: Seconds within which the head of a cluster must answer.
ANSWER_S = 5.0
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


def pack(value: Any, what: str) -> bytes:
    """Serialise an object for a process of our own; functions and classes of scripts come along.

    Args:
        value: the object.
        what: it is, for messages.

    Raises:
        ConfigError: it can't be sent to another process.
    """
    dumps = import_ray().cloudpickle.dumps
    try:
        data: bytes = dumps(value)
    except Exception as error:  # A user's object: its own __reduce__ may raise anything.
        text = str(error).strip().splitlines()
        raise ConfigError(
            f"{what} can't be sent to workers: {text[0] if text else type(error).__name__}. What "
            "it refers to must be picklable: open files, locks and connections inside `evaluate`, "
            "or leave workers out"
        ) from error
    return data


def unpack(data: bytes, what: str) -> Any:
    """The inverse of `pack`. Only for bytes that come from a process of this run, never a file's.

    Raises:
        ConfigError: what it is made of can't be imported here.
    """
    try:
        return pickle.loads(data)
    except AutopruneError:
        raise
    except Exception as error:  # A user's object: what it imports may be missing on this node.
        raise ConfigError(
            f"{what} can't be unpacked on a worker: {type(error).__name__}: {error}. The modules "
            "that it is made of must be importable on every node (python_path)"
        ) from error


@dataclass(frozen=True)
class Packed:
    """An object on its way to another process, and where its modules are.

    Attributes:
        data: the object.
        paths: the sender's module path, which the receiver's is extended by.
        what: the object is, for messages.
    """

    data: bytes
    paths: tuple[str, ...]
    what: str

    @classmethod
    def of(cls, value: Any, what: str) -> Packed:
        """Pack an object.

        Raises:
            ConfigError: it can't be sent to another process.
        """
        return cls(pack(value, what), tuple(path or str(Path.cwd()) for path in sys.path), what)

    def unpack(self) -> Any:
        """The object.

        Raises:
            ConfigError: what it is made of can't be imported here.
        """
        sys.path.extend(path for path in self.paths if path not in sys.path)
        return unpack(self.data, self.what)


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray.

    Attributes:
        ray: the module.
        owned: whether this process started the cluster, and ends it.
        address: for people.
    """

    ray: Any
    owned: bool
    address: str

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
        yield Cluster(ray, False, address or "of this process")
        return
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
            raise RunError(f"Ray can't be started on this machine: {_first(error)}") from error
    else:
        check_answers(address)
        try:
            ray.init(address=address, **options)
        except (Exception, SystemExit) as error:  # Ray raises many kinds, and exits on some.
            raise _explained(error, address) from error
    try:
        yield Cluster(ray, address is None, address or "on this machine")
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Refuse an address where nobody answers; Ray itself would wait for minutes.

    Raises:
        ConfigError: it is no address, or nothing listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            "a Ray address must be auto, host:port (of the head, usually port 6379) or "
            f"ray://host:port (usually port 10001); got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error.strerror or error}. Start its head by "
            "`ray start --head --port=6379`, or check the host, the port and the firewall"
        ) from error


def _explained(error: BaseException, address: str) -> Exception:
    text = str(error)
    low = text.lower()
    if "ray[client]" in text:
        return MissingDependencyError(
            f"the address {address} needs Ray's client: pip install 'ray[client]'; on a node of "
            "the cluster, give --ray-address auto instead"
        )
    if "version mismatch" in low or ("version" in low and "python" in low):
        return ConfigError(
            f"the Ray cluster at {address} is of another version than this process, and both must "
            f"be the same: {text.strip()}"
        )
    if address == "auto" and "could not find any" in low:
        return ConfigError(
            "no Ray cluster runs on this machine (--ray-address auto); start one by `ray start "
            "--head`, give its address as host:port, or leave the address out to start Ray just "
            "for this run"
        )
    # Ray says the same of a wrong token as of a port where something else listens.
    if any(word in low for word in ("token", "auth", "failed to connect")):
        return ConfigError(
            f"{address} answers, but not as a Ray cluster that takes this process's token "
            f"({_first(error)}). Check that it is the head's port (usually 6379), give the "
            "cluster's token by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE "
            "(token or disabled) as on its nodes"
        )
    return ConfigError(
        f"the Ray cluster at {address} can't be used: {_first(error)}. Check that `ray status` "
        "works here with the same address"
    )


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
