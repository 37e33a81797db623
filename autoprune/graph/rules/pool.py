"""Pooling and resampling: channels pass, what is pooled over is fixed."""

from __future__ import annotations

from autoprune.graph.names import words
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, Result, rule

_POOL = {
    "avg_pool": "123",
    "max_pool": "123",
    "adaptive_avg_pool": "123",
    "_adaptive_avg_pool": "23",
    "adaptive_max_pool": "123",
    "max_pool{}_with_indices": "23",
    "fractional_max_pool": "23",
    "upsample_nearest": "123",
    "_upsample_nearest_exact": "123",
}


def _names() -> list[str]:
    names = [
        stem.format(f"{dim}d") if "{}" in stem else f"{stem}{dim}d"
        for stem, dims in _POOL.items()
        for dim in dims
    ]
    more = "upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d"
    return [*names, *words(more), "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"]


@rule(*_names())
def pool(op: Op) -> Result:
    """The last 1, 2 or 3 dimensions are pooled or resampled."""
    x = op.first
    spatial = int(op.name.split("d_")[0].rstrip("d_a")[-1]) if "_aa" not in op.name else 2
    for label in x.labels[x.ndim - spatial :]:
        op.freeze(label, f"{op.where()} runs along it")
    labels: Labels = (*x.labels[: x.ndim - spatial], *[None] * spatial)
    return [labels] * len(op.shapes) if len(op.shapes) > 1 else labels


@rule("grid_sampler")
def grid_sampler(op: Op) -> Labels:
    """Channels pass; the grid is inert."""
    x, grid = op["input"], op["grid"]
    op.freeze_all(grid, f"sampling positions are fixed ({op.where()})")
    for label in x.labels[2:]:
        op.freeze(label, f"{op.where()} runs along it")
    return (*x.labels[:2], *[None] * (x.ndim - 2))
