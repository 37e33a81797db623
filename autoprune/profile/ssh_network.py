"""Networks on a remote device: sent there once, loaded to be timed, or to be profiled."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from autoprune.core.errors import ProfilerError
from autoprune.profile import replies
from autoprune.profile.node_times import NodeTimes
from autoprune.profile.onnx_layers import FusedLayers
from autoprune.profile.ssh_runtime import Sent
from autoprune.profile.ssh_session import Lost, Session

#: An optimised graph without its weights is not larger than this.
GRAPH_BYTES = 1 << 26


class RemoteNetwork:
    """A network, and how it gets to the device.

    Args:
        number: what the agent calls it; the same network may be loaded to be timed and to be
            profiled.
        sent: the network and its inputs.
        load_s: what loading it may take at least.

    Attributes:
        note: what is to be known of its figures, when it was loaded.
    """

    def __init__(self, number: int, sent: Sent, load_s: float = 0.0) -> None:
        self.number, self.sent, self._load_s = number, sent, load_s
        self.note = ""
        self._model = _digest(sent.file)
        self._files = {self._model: sent.file}
        self._inputs: list[dict[str, Any]] = []
        for name, array in sent.inputs.items():
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            data = little.tobytes()
            self._files[_digest(data)] = data
            self._inputs.append(
                {
                    "name": name,
                    "sha256": _digest(data),
                    "dtype": little.dtype.str,
                    "shape": list(array.shape),
                }
            )

    def load(self, session: Session, *, profile: bool = False) -> dict[str, Any]:
        """Load it there, to be timed or profiled; what is not there yet is sent.

        Returns:
            What the agent replied.

        Raises:
            ProfilerError: it can't be loaded there, or not kept (the disk is full).
            Lost: the connection is gone.
        """
        request: dict[str, Any] = {
            "number": self.number,
            "model": self._model,
            "inputs": self._inputs,
            "profile": profile,
            "within_s": self._load_s,
        }
        reply = session.ask("load", **request)
        missing = reply.get("missing")
        if not missing:
            return self._loaded(reply)
        for digest in missing:
            data = self._files.get(digest)
            if data is None:
                raise Lost(f"the agent asks for {digest!r}, which is no file of this network")
            session.ask("put", data, digest=digest, size=len(data))
        reply = session.ask("load", **request)
        if reply.get("missing"):
            raise ProfilerError("the device does not keep the files that it is sent")
        return self._loaded(reply)

    def _loaded(self, reply: dict[str, Any]) -> dict[str, Any]:
        self.note = str(reply.get("note", ""))[:1000]
        return reply

    def profiled(self, session: Session) -> RemoteSource:
        """Load it there to be profiled.

        Raises:
            ProfilerError: it can't be loaded there.
            Lost: the connection is gone.
        """
        reply = self.load(session, profile=True)
        graph = replies.unpacked(reply, "graph", GRAPH_BYTES, "the device")
        return RemoteSource(session, self.number, FusedLayers.of(self.sent.onnx, graph))


class RemoteSource:
    """A network profiled on a device: a `node_times.Source`, whose methods may raise `Lost` too.

    Args:
        session: the connection.
        number: what the agent calls the network.
        fused: the layers of its nodes, where it is not the nodes that tell them.
    """

    def __init__(self, session: Session, number: int, fused: FusedLayers | None) -> None:
        self._session, self._number, self.fused = session, number, fused
        self._runs = 0

    def run(self, runs: int) -> None:
        """Run it that many times."""
        self._session.ask("profile", number=self._number, runs=runs)
        self._runs += runs

    def read(self) -> NodeTimes:
        """Its nodes and their times in all runs since it was last read."""
        runs, self._runs = self._runs, 0
        reply = self._session.ask("nodes", number=self._number)
        return replies.node_times(reply, runs, "the device")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
