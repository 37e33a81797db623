"""Layers that a pruned network does without, in `autoprune explain`."""

from __future__ import annotations

from autoprune.report.explain import sums
from autoprune.study.explaining import _removed
from autoprune.study.layer_times import LayerWork


def _data(removed):
    return {
        "layers": [], "dense_ms": 4.0, "pruned_ms": 2.0, "ratio": 0.5, "source": "measured",
        "removed": removed, "plateaus": [], "cheaper": None, "notes": [],
    }  # fmt: skip


def test_they_are_told_with_their_time():
    lines = sums(_data({"block.conv1": 0.5, "block.conv2": 0.25}))
    assert "removed whole, 0.75 ms of the dense network: block.conv1, block.conv2" in lines
    assert not any("removed" in line for line in sums(_data({})))


def test_they_are_those_that_the_pruned_network_has_no_work_for():
    work = {name: object.__new__(LayerWork) for name in ("a", "b", "untimed")}
    assert _removed([work, {"b": work["b"]}], {"a": 1.5, "b": 2.0}) == {"a": 1.5}
