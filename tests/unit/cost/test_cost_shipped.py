"""The tables that are shipped can be read, and fit the networks they are named after."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.cost.table import LatencyTable
from autoprune.graph import trace

CHECKOUT = Path(__file__).parents[3]
SHIPPED = sorted((CHECKOUT / "latency_models").rglob("*.jsonl"))

#: Measured by hand in another hour: inner channels by stage → latency ratio, batch 8, one thread.
BY_HAND = {(8, 16, 48): 0.75, (4, 16, 48): 0.68, (6, 14, 42): 0.77, (4, 16, 32): 0.62}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_table_is_readable(path: Path) -> None:
    table = LatencyTable.load(path)
    assert len(table.observations) >= 20
    json.dumps(table.info, allow_nan=False)
    mean, std, _ = table.predict_ratio(table.reference, table.reference.units[None])
    assert mean[0] == pytest.approx(1.0, abs=0.01)
    assert std[0] < 0.02


def test_the_table_of_resnet56_knows_what_was_measured_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "examples"))
    monkeypatch.delitem(sys.modules, "resnet_cifar", raising=False)
    from resnet_cifar import resnet56

    path = next(p for p in SHIPPED if "resnet56-cifar10-batch8" in p.name)
    table = LatencyTable.load(path)
    network = trace(resnet56(pretrained=False).eval(), (torch.zeros(8, 3, 32, 32),))
    graph = network.kernels
    assert table.knows(graph)
    rows = []
    for inner in BY_HAND:
        row = graph.units.copy()
        for column, group in enumerate(graph.groups):
            if group.startswith("layer") and group.endswith("conv1"):
                row[column] = inner[int(group[5]) - 1]
        rows.append(row)
    costs = table.predict(graph.instantiate(np.stack(rows)))
    np.testing.assert_allclose(
        costs.mean["latency_ms"] / table.reference_ms, list(BY_HAND.values()), rtol=0.05
    )
    assert 48 in table.plateau_edges(graph, "layer3.4.conv1")
    assert 24 not in table.plateau_edges(graph, "layer2.4.conv1")
