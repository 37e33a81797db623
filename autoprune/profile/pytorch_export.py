"""PyTorch modules as files that need no class of their user's to be run."""

from __future__ import annotations

import io
import warnings
from typing import Any

from autoprune.core.device import ModuleCall
from autoprune.core.errors import ProfilerError
from autoprune.profile.loading import short


def exported(call: ModuleCall) -> bytes:
    """A network and its inputs as a program of `torch.export.save`, on the CPU.

    Its operators are those that the module calls, in the shapes of its inputs; its parameters keep
    their names, and operators tell which module called them.

    Args:
        call: the network and its inputs.

    Raises:
        ProfilerError: torch.export can't export it; says why.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    if not isinstance(call.module, torch.nn.Module):
        raise ProfilerError(
            f"it must be a torch.nn.Module to be sent, got {type(call.module).__name__}"
        )
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                call.module.eval(), tuple(call.args), dict(call.kwargs), strict=False
            )
            inputs = torch.utils._pytree.tree_leaves(program.example_inputs)
            tensors = [*program.state_dict.values(), *program.constants.values(), *inputs]
            if any(t.device.type != "cpu" for t in tensors if isinstance(t, torch.Tensor)):
                program = move_to_device_pass(program, "cpu")
            _flatten(program)
            torch.export.save(program, buffer)
    except Exception as error:  # the user's forward is called: anything may come
        raise ProfilerError(
            f"torch.export can't export it, and over ssh PyTorch runs exported networks: "
            f"{short(error)}"
        ) from error
    return buffer.getvalue()


def _flatten(program: Any) -> None:
    """Have a program take and give its tensors one by one, in place.

    Containers of a class of its own, as the outputs of transformers are, could be read back only
    where that class is.
    """
    from torch.utils._pytree import tree_flatten, tree_leaves

    inputs = tree_leaves(program.example_inputs)
    signature = program.module_call_graph[0].signature  # of the whole network
    _, signature.in_spec = tree_flatten((tuple(inputs), {}))
    _, signature.out_spec = tree_flatten((0,) * signature.out_spec.num_leaves)
    signature.forward_arg_names = None
    program.example_inputs = tuple(inputs), {}
