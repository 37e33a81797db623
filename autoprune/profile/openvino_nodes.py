"""How OpenVINO runs networks, and its own profile of a request; here, and on a remote device.

It is sent there as it is: Python 3.9 and its standard library, and nothing else of autoprune.
"""

from __future__ import annotations

from typing import Any


def settings(hint: str, threads: int) -> dict[str, Any]:
    """Of a network on the CPU: one inference at a time, in a precision that is told.

    Args:
        hint: OpenVINO's name of the precision.
        threads: at least 1.
    """
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


class ProfiledRequest:
    """An inference request of a network that was compiled with `PERF_COUNT`.

    Args:
        compiled: the compiled network.
        request: of it, with its inputs set; run once here.
    """

    def __init__(self, compiled: Any, request: Any) -> None:
        self._request = request
        self._ops = {
            op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ordered_ops()
        }
        self._total_us: dict[str, int] = {}
        self._runs, self._unread = 1, 0
        request.infer()

    def run(self, runs: int = 1) -> None:
        """Run it that many times."""
        for _ in range(runs):
            self._request.infer()
        self._runs += runs
        self._unread += runs

    def read(self) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """Its nodes, and for each run since it was last read their mean microseconds in those."""
        runs, self._unread = self._unread, 0
        before = self._total_us
        # What OpenVINO tells of a node is its mean over all runs so far; below a microsecond it
        # tells a node that it told before no longer.
        self._total_us = dict.fromkeys(before, 0)
        for each in self._request.profiling_info:
            if each.status == each.Status.EXECUTED:
                mean_us = round(each.real_time.total_seconds() * 1e6)
                self._total_us[each.node_name] = self._runs * mean_us
        means = [
            max(0, round((total - before.get(name, 0)) / max(runs, 1)))
            for name, total in self._total_us.items()
        ]
        return [self._node(name) for name in self._total_us], [means] * runs

    def _node(self, name: str) -> dict[str, Any]:
        op = self._ops.get(name)
        if op is None:
            return {"name": name, "op": "unknown"}
        about = op.get_rt_info()
        layers = str(about["originalLayersNames"].value) if "originalLayersNames" in about else ""
        return {
            "name": name,
            "op": str(about["layerType"].value) if "layerType" in about else op.get_type_name(),
            "layers": [layer for layer in layers.split(",") if layer],
            "input_shapes": [_shape(port) for port in op.inputs()],
            "output_shapes": [_shape(port) for port in op.outputs()],
        }


def _shape(port: Any) -> list[int]:
    shape = port.get_partial_shape()
    return [int(size) for size in shape.to_shape()] if shape.is_static else []
