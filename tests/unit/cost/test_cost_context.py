import numpy as np
import pytest

from autoprune.core.device import DeviceSpec
from autoprune.cost.context import channel_block, ragged, regimes


def device(runtime: str = "onnxruntime", **details: str) -> DeviceSpec:
    return DeviceSpec("CPU", runtime, "1", provider="cpu", threads=1, details=details)


@pytest.mark.parametrize(
    ("details", "block"),
    [
        ({"instructions": "sse4_2 avx avx2 fma f16c"}, 8),
        ({"instructions": "sse4_2 avx avx2 fma f16c avx512f avx512_vnni"}, 16),
        ({"instructions": ""}, 16),
        ({}, 16),
    ],
)
def test_a_block_is_as_long_as_the_cpu_s_vectors(details: dict[str, str], block: int) -> None:
    assert channel_block(device(**details)) == block


def test_openvino_has_long_blocks_everywhere() -> None:
    assert channel_block(device("openvino", instructions="avx2 fma")) == 16


def test_regimes_begin_at_a_block() -> None:
    counts = np.array([3, 7, 8, 9, 12, 14, 15, 16, 17])
    assert regimes(counts, 8).tolist() == [0, 0, 1, 2, 1, 2, 2, 1, 2]
    assert regimes(counts, 16).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert ragged(counts, 8).tolist() == [r == 2 for r in regimes(counts, 8)]
