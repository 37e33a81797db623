"""What each operator of a PyTorch network takes, by torch's profiler, and which layer called it.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from autoprune.core.errors import ProfilerError

#: Profiled runs of each network, and of the reference beside it.
RUNS = 8

#: A range in the profile that is ours: a run of one of the two networks, or a module's forward.
_RUN, _MODULE = "autoprune run ", "autoprune module "

#: Operators whose time is charged to the layer that called them.
_HEAVY = re.compile(r"conv|linear|addmm|matmul|bmm|attention", re.I)

#: What torch.export.unflatten puts after the name of a module that is called again.
_AGAIN = re.compile(r"@\d+(?=\.|$)")

#: A network, and a function that runs it once.
Runnable = tuple[Any, Callable[[], object]]


def profile_beside(
    reference: Runnable, own: Runnable, cuda: bool
) -> tuple[list[dict[str, Any]], float]:
    """Times of the operators that a network's modules call, in order.

    Args:
        reference: is run beside it, so that a drift of the machine cancels.
        own: the network; the reference itself gives its own.
        cuda: whether the GPU's time counts.

    Returns:
        Operators, each with its `name`, `op`, `layers`, `ms` and `input_shapes`; and the
        milliseconds of all of the reference's.

    Raises:
        ProfilerError: torch's profiler tells no times.
    """
    import torch
    from torch.autograd.profiler import profile, record_function

    networks = {"reference": reference}
    if own[0] is not reference[0]:
        networks["own"] = own
    with _scopes([module for module, _ in networks.values()]):
        for _, run in networks.values():
            run()
        # On the CPU alone the older collector is enough, which prints nothing.
        device = "cuda" if cuda else None
        with profile(use_device=device, use_kineto=cuda, record_shapes=True) as profiler:
            for _ in range(RUNS):
                for name, (_, run) in networks.items():
                    with record_function(_RUN + name):
                        run()
            if cuda:
                torch.cuda.synchronize()
    runs: dict[str, list[list[Any]]] = {name: [] for name in networks}
    for event in sorted(profiler.function_events, key=lambda e: e.time_range.start):
        _sort_in(event, runs)
    whole_ms = sum(_times_ms(runs["reference"], cuda))
    if not whole_ms:
        raise ProfilerError(
            "torch's profiler tells no times of the reference's operators"
            + (
                " on the GPU: it needs CUPTI there, and the right to read the GPU's counters"
                if cuda
                else ""
            )
        )
    measured = runs.get("own", runs["reference"])
    times = _times_ms(measured, cuda)
    return [_kernel(i, event, times[i]) for i, event in enumerate(measured[0])], whole_ms


def _sort_in(event: Any, runs: dict[str, list[list[Any]]]) -> None:
    """Put an operator that a module, or the run itself, called into its run."""
    if event.name.startswith(_RUN):
        runs[event.name.removeprefix(_RUN)].append([])
        return
    parent = event.cpu_parent
    if not event.name.startswith("aten::") or parent is None:
        return
    if not parent.name.startswith((_RUN, _MODULE)):
        return
    while not parent.name.startswith(_RUN):
        parent = parent.cpu_parent
        if parent is None:
            return
    runs[parent.name.removeprefix(_RUN)][-1].append(event)


def _times_ms(runs: list[list[Any]], cuda: bool) -> list[float]:
    """Of each operator, the median over the runs; runs in which others were called are left out."""
    if not runs:
        return []
    names = [event.name for event in runs[0]]
    same = [run for run in runs if [event.name for event in run] == names]
    return [median(_time_us(run[i], cuda) for run in same) / 1e3 for i in range(len(names))]


def _time_us(event: Any, cuda: bool) -> float:
    return float(event.device_time_total if cuda else event.cpu_time_total)


def _kernel(number: int, event: Any, ms: float) -> dict[str, Any]:
    path = (
        event.cpu_parent.name[len(_MODULE) :] if event.cpu_parent.name.startswith(_MODULE) else ""
    )
    op = event.name[len("aten::") :]
    return {
        "name": f"{path or 'network'}/{op}#{number}",
        "layers": [path] if path and _HEAVY.search(op) else [],
        "op": op,
        "ms": ms,
        "input_shapes": [[int(s) for s in shape] for shape in event.input_shapes or () if shape],
    }


@contextmanager
def _scopes(modules: list[Any]) -> Iterator[None]:
    """While this is open, each module's forward is a range in the profile, named by its path."""
    from torch.autograd.profiler import record_function

    handles: list[Any] = []
    open_ones: list[Any] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            scope: Any = record_function(_MODULE + path)
            scope.__enter__()
            open_ones.append(scope)

        return hook

    def leave(*_: object) -> None:
        open_ones.pop().__exit__(None, None, None)

    try:
        for module in modules:
            for path, part in module.named_modules():
                if path:
                    handles.append(part.register_forward_pre_hook(enter(path)))
                    handles.append(part.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
