from __future__ import annotations

import math
from typing import Any

import pytest

from autoprune.core.device import MeasuringProtocol
from autoprune.core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runs", 0),
        ("min_rounds", 0),
        ("max_rounds", -1),
        ("between", 0),
        ("warmup", -1),
        ("width", 0.0),
        ("width", math.nan),
        ("timeout_s", -1.0),
        ("timeout_s", math.nan),
        ("confidence", 95),
        ("confidence", 0.0),
    ],
)
def test_what_is_out_of_range_is_told(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} of a measuring protocol must be .* got {value}"):
        MeasuringProtocol(**{name: value})


def test_the_least_of_all_is_taken() -> None:
    MeasuringProtocol(
        warmup=0, runs=1, min_rounds=1, max_rounds=1, width=1e-9, timeout_s=0.0, between=1
    )
