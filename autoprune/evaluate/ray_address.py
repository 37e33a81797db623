"""Whether the head of a Ray cluster answers at an address; without Ray, which waits for minutes."""

from __future__ import annotations

import os
import socket

from autoprune.core.errors import ConfigError

#: Seconds within which the head of a cluster must answer.
ANSWER_S = 5.0
#: What a client of HTTP/2 (of gRPC, so of Ray) sends first: its preface, and no settings; and the
#: kind of frame that the server begins with (RFC 9113, 3.4 and 6.5).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def answers(head: tuple[str, int]) -> bool:
    """Whether something listens at a head's host and port."""
    try:
        socket.create_connection(head, ANSWER_S).close()
    except OSError:
        return False
    return True


def check_answers(address: str) -> None:
    """Refuse an address where no head of a cluster can be.

    Raises:
        ConfigError: it is no address, nothing listens there, or something else than Ray.
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
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as connection:
            known = _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        client = (
            "; a head serves Ray's client (usually on port 10001) only where ray[client] is "
            "installed: on a node of the cluster, give --ray-address auto instead"
            if address.startswith("ray://")
            else ""
        )
        raise ConfigError(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}. "
            "Start its head by `ray start --head --port=6379`, or check the host, the port and "
            f"the firewall{client}"
        ) from error
    if not known:
        raise ConfigError(
            f"something else than a Ray cluster listens at {address}: give the head's port "
            "(usually 6379; with ray:// usually 10001)"
        )


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether a server begins as one of gRPC does; True where that can't be told."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return True
    try:
        connection.sendall(_PREFACE)
        begun = connection.recv(4)
        while 0 < len(begun) < 4 and (more := connection.recv(4 - len(begun))):
            begun += more
    except TimeoutError:
        return True  # it may only be busy; Ray waits for longer
    except OSError:
        return False  # it hung up
    return len(begun) == 4 and begun[3] == _SETTINGS
