"""What Ray raises, in words that say what to do."""

from __future__ import annotations

from autoprune.core.errors import ConfigError, MissingDependencyError


def explained(error: BaseException, address: str) -> Exception:
    """Why a cluster can't be used, as an error of ours."""
    text = str(error)
    low = text.lower()
    if "ray[client]" in text:
        return MissingDependencyError(
            f"the address {address} needs Ray's client: pip install 'autoprune[ray-client]' here "
            "and on the head; on a node of the cluster, give --ray-address auto instead"
        )
    if no_client_server(error):
        return ConfigError(
            f"the head of the Ray cluster at {address} could not start a server for this client "
            f"({text.strip().splitlines()[-1]}). See ray_client_server*.err in /tmp/ray/"
            "session_latest/logs on the head, or give the address as host:port (usually 6379) on a "
            "node of the cluster"
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
            f"({first_line(error)}). Check that it is the head's port (usually 6379), give the "
            "cluster's token by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE "
            "(token or disabled) as on its nodes"
        )
    return ConfigError(
        f"the Ray cluster at {address} can't be used: {first_line(error)}. Check that `ray status` "
        "works here with the same address"
    )


def no_client_server(error: BaseException) -> bool:
    """Whether a head that answers has not started the server that a ray:// address needs."""
    return "initialization failure from server" in str(error).lower()


def first_line(error: BaseException) -> str:
    """Of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cause_of(error: BaseException) -> str:
    """Why a worker raised or died, in one line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        text = str(cause).strip().splitlines()
        return f"{type(cause).__name__}: {text[0]}" if text else type(cause).__name__
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    found = [line for line in lines if "Worker exit type" in line or "memory" in line.lower()]
    text_line = (found or lines or [type(error).__name__])[0]
    return text_line if len(text_line) < 300 else text_line[:299] + "…"
