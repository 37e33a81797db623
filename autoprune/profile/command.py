"""Measures by a program of the user's own, in any language."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile import replies
from autoprune.profile.child import Child, ChildEnded, ChildError, ChildTimeout
from autoprune.profile.measuring import Visit, measure_interleaved

#: Version of the requests and replies.
SCHEMA = 1


class CommandProfiler:
    """Measures by a program that reads one JSON request from stdin and writes one JSON reply.

    The program is started for each request: once to tell the device, then once for each visit,
    to run one network some times in a row. Rounds, the reference in between, intervals and the
    time limit are autoprune's part. The schema stands in docs/how-to/custom-profiler.md.

    A reply that is no JSON, has another number of times, or a time that no run can take, a
    program that fails, and one that is too slow (it is killed with all that it started) are
    recorded as the network's error.

    Args:
        program: the program and its arguments, as a shell would split them; no shell is used.
        timeout_s: what one request may take.

    Raises:
        ProfilerError: no program is named, or the limit is wrong.
    """

    #: None on a call: each request has its own.
    limit_s = math.inf

    #: For each visit: no meter can be read beside it.
    starts_programs = True

    def __init__(self, program: str = "", timeout_s: float = 120.0) -> None:
        try:
            self._command = shlex.split(program)
        except ValueError as error:
            raise ProfilerError(f"program {program!r} can't be split: {error}") from error
        if not self._command:
            raise ProfilerError(
                "command measures by a program of yours: give its name and arguments by the "
                "option program, for example command?program=./measure.sh "
                "(see docs/how-to/custom-profiler.md)"
            )
        if not 0 < timeout_s < math.inf:
            raise ProfilerError(f"timeout_s must be above 0 and finite, got {timeout_s!r}")
        self._timeout_s = timeout_s
        self._who = f"the program {self._command[0]!r}"

    @cached_property
    def device(self) -> DeviceSpec:
        """What the program says that it measures on; asked for once.

        Raises:
            ProfilerError: it can't be started, or gives no answer that can be read.
        """
        return replies.device(self._ask({"request": "device"}), self._who)

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference."""
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            try:
                networks = [_Network(self._ask, a, Path(folder), protocol) for a in artifacts]
            except OSError as error:
                reason = f"the networks can't be written to {folder}: {error.strerror or error}"
                return [Measurement(artifact.key, error=reason) for artifact in artifacts]
            return measure_interleaved([a.key for a in artifacts], networks, protocol)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start the program with one request.

        Raises:
            ProfilerError: it can't be started, fails, is too slow, or replies with rubbish.
        """
        text = json.dumps({"autoprune": SCHEMA, **request}) + "\n"
        with Child(self._command) as child:
            try:
                # A program that does not read all of it may have answered all the same.
                with contextlib.suppress(ChildEnded):
                    child.write(text.encode(), self._timeout_s)
                reply, status = child.rest(self._timeout_s)
            except ChildTimeout as error:
                raise ProfilerError(
                    f"{self._who} took longer than timeout_s ({self._timeout_s:g} s) for one "
                    "request and was ended"
                ) from error
            except ChildError as error:
                raise ProfilerError(f"{self._who}: {error}") from error
            if status:
                ended = f"ended with status {status}" if status > 0 else f"got signal {-status}"
                raise ProfilerError(f"{self._who} {ended}: {child.said() or 'it said nothing'}")
            return replies.parse(reply, self._who)


class _Network:
    """A network in files, and how it is asked for."""

    def __init__(
        self, ask: Any, artifact: Artifact, folder: Path, protocol: MeasuringProtocol
    ) -> None:
        self._ask = ask
        path, digest = _write(folder, artifact.onnx, ".onnx")
        self._request = {
            "request": "run",
            "key": artifact.key,
            "model": path,
            "sha256": digest,
            "inputs": [_input(folder, n, array) for n, array in artifact.inputs.items()],
            "warmup": max(1, protocol.warmup),
        }

    def visit(self, runs: int) -> Visit:
        """Have it run that many times in a row."""
        return replies.visit(self._ask({**self._request, "runs": runs}), runs, "the program")


def _input(folder: Path, name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    path, digest = _write(folder, little.tobytes(), ".bin")
    return {
        "name": name,
        "path": path,
        "sha256": digest,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
    }


def _write(folder: Path, data: bytes, ending: str) -> tuple[str, str]:
    """A file named by its content, so that what is the same is written (and sent) once."""
    digest = hashlib.sha256(data).hexdigest()
    path = folder / (digest + ending)
    if not path.exists():
        path.write_bytes(data)
    return str(path), digest
