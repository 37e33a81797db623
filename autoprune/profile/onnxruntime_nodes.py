"""onnxruntime's own profile of a session, read; here, and on a remote device by the agent.

It is sent there as it is: Python 3.9 and its standard library, and nothing else of autoprune.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

_SUFFIX = "_kernel_time"

#: Weights from this size on stay out of the graph that onnxruntime writes down.
_WEIGHT_BYTES = 1024

#: A node's name, and its index in the optimised graph.
Node = tuple[str, str]


#: An event, as onnxruntime writes one on each line, and a node's index in it.
_EVENT = re.compile(
    r'\{"cat" : "(\w+)",[^{]*"dur" :(\d+),[^{]*"name" :"([^"\\]*)","args" : (\{.*\})\},?'
)
_INDEX = re.compile(r'"node_index" : "(\d*)"')


def parse_profile(text: str) -> tuple[list[dict[Node, int]], dict[Node, Mapping[str, Any]]]:
    """Read onnxruntime's profile, a list of trace events in JSON.

    Returns:
        For each run of the session, microseconds of every node; and each node's arguments.

    Raises:
        ValueError: it is no JSON.
    """
    runs: list[dict[Node, int]] = []
    current: dict[Node, int] = {}
    arguments: dict[Node, Mapping[str, Any]] = {}
    for category, name, duration, index, args in _line_by_line(text) or _as_a_whole(text):
        if category == "Node" and name.endswith(_SUFFIX):
            node = (name[: -len(_SUFFIX)], index)
            current[node] = current.get(node, 0) + duration
            if node not in arguments:
                arguments[node] = json.loads(args) if isinstance(args, str) else args
        elif category == "Session" and name == "model_run":
            runs.append(current)
            current = {}
    return runs, arguments


#: An event's category, name, microseconds, its node's index, and its arguments, parsed or not.
_Event = tuple[str, str, int, str, Any]


def _line_by_line(text: str) -> list[_Event]:
    """Its events, if each has a line of its own: a quarter of the time of parsing it as a whole.

    A node's arguments, most of the text, are the same in every run.
    """
    events: list[_Event] = []
    for line in text.splitlines():
        event = _EVENT.fullmatch(line)
        if event is not None:
            category, duration, name, args = event.groups()
            index = _INDEX.search(args)
            events.append((category, name, int(duration), index[1] if index else "", args))
        elif line not in ("[", "]", ""):
            return []
    return events


def _as_a_whole(text: str) -> list[_Event]:
    found = []
    for event in json.loads(text):
        args = event.get("args", {})
        index = str(args.get("node_index", ""))
        found.append((event["cat"], event["name"], event.get("dur", 0), index, args))
    return found


class ProfiledSession:
    """A session that onnxruntime profiles, until it is read.

    Args:
        make: makes a session, and a function that runs it once, of session options.
        options: session options, changed here.
        keep_graph: whether to have onnxruntime write down the graph it runs; not every provider
            lets it.

    Attributes:
        graph: that graph, serialised without its larger weights; b"" where it is not kept.
        count: runs so far.
    """

    def __init__(
        self,
        make: Callable[[Any], tuple[Any, Callable[[], object]]],
        options: Any,
        *,
        keep_graph: bool,
    ) -> None:
        self.graph, self.count = b"", 0
        self._folder = tempfile.TemporaryDirectory(prefix="autoprune-")
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(self._folder.name, "profile")
        optimised = os.path.join(self._folder.name, "optimised.onnx")
        if keep_graph:
            options.optimized_model_filepath = optimised
            entry = "session.optimized_model_external_initializers_"
            options.add_session_config_entry(f"{entry}file_name", "weights")
            options.add_session_config_entry(f"{entry}min_size_in_bytes", str(_WEIGHT_BYTES))
        self._session, self._run = make(options)
        if keep_graph:
            with open(optimised, "rb") as file:
                self.graph = file.read()
            weights = os.path.join(self._folder.name, "weights")
            if os.path.exists(weights):
                os.unlink(weights)

    def run(self, runs: int = 1) -> None:
        """Run it that many times."""
        for _ in range(runs):
            self._run()
        self.count += runs

    def arguments(self) -> dict[Node, Mapping[str, Any]]:
        """The nodes of its runs and their arguments; ends the profile.

        Raises:
            OSError: the profile can't be read.
            ValueError: likewise.
        """
        return self._end()[1]

    def read(self) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """Its nodes, and for each run the microseconds of each; ends the profile.

        Raises:
            OSError: the profile can't be read.
            ValueError: likewise, or not all runs are in it.
        """
        runs, arguments = self._end()
        if len(runs) != self.count or not arguments:
            raise ValueError(f"{self.count} runs were profiled, the profile tells {len(runs)}")
        nodes = [
            {
                "name": node[0],
                "op": str(args.get("op_name", "")),
                "input_shapes": _shapes(args.get("input_type_shape")),
                "output_shapes": _shapes(args.get("output_type_shape")),
            }
            for node, args in arguments.items()
        ]
        return nodes, [[run.get(node, 0) for node in arguments] for run in runs]

    def _end(self) -> tuple[list[dict[Node, int]], dict[Node, Mapping[str, Any]]]:
        with open(self._session.end_profiling(), encoding="utf-8") as file:
            text = file.read()
        self._folder.cleanup()
        return parse_profile(text)


def _shapes(described: object) -> list[list[int]]:
    """Shapes out of [{"float": [8, 3, 32, 32]}, ...]."""
    if not isinstance(described, list):
        return []
    return [
        [int(size) for size in shape]
        for tensor in described
        for shape in (tensor.values() if isinstance(tensor, dict) else ())
    ]
