"""A network that was exported by torch.export, run about as its module runs.

`torch.export.unflatten` gives a program the modules of the network that it was exported of, so
that operators are told by layer. But it is made for debugging, and interprets its graph node by
node. On one thread ResNet-20 takes 1.5 times as long so as its own module (batch 8), a vision
transformer 2.2 times, DenseNet 3.1 times (batch 1). `program.module()`, which is flat code, takes
5, 12 and 14 % longer than the module: each operator is called by its ATen overload, which is some
microseconds slower than the function of torch that a module calls. As code, with those functions,
and without what unflatten checks of each call, the network is within 3 % of its module
(`benchmarks/exported_pytorch.py`, in which the same module again is within 2 %).

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from autoprune.profile.pytorch_runs import Runs

_BUILTIN = (types.BuiltinFunctionType, types.MethodDescriptorType)


class Program:
    """A network out of a file of `torch.export.save`, ready to be timed.

    Args:
        runs: how.
        file: with the example inputs in it.

    Attributes:
        module: the network, its modules called as in the one that was exported.
        run: runs it once, eagerly.

    Raises:
        Exception: whatever torch raises where it can't load or run it.
    """

    def __init__(self, runs: Runs, file: str) -> None:
        program = runs.torch.export.load(file)
        if runs.cuda:
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, runs.place)
        _use_cudnn(runs.torch, program)
        args, kwargs = program.example_inputs
        if runs.mode == "compiled":  # torch.compile sees through its calls, and needs no layers
            self.module = program.module()
            self.run = runs.eager(self.module, args, kwargs)
            return
        self.module = runs.torch.export.unflatten(program)
        self._runs, self._flat = runs, self.module.process_forward_inputs(*args, **kwargs)
        for part in _graphs(self.module):
            _tidied(runs.torch, part.graph)
        self.run = self._as_code()
        self._call_functions()

    def _as_code(self) -> Callable[[], object]:
        """What runs it once, as its graphs are now."""
        return self._runs.eager(_called_directly(self.module), self._flat, {})

    def _call_functions(self) -> None:
        """Have operators called by torch's functions of that name, as modules call them.

        Those whose function takes other arguments, or gives something else, stay as they are.
        """
        torch, wanted = self._runs.torch, self.run()
        operators: dict[str, list[tuple[Any, Any, Any]]] = {}
        for part in _graphs(self.module):
            for node in part.graph.nodes:
                if isinstance(node.target, torch._ops.OpOverload):
                    name = node.target.name()
                    function = _function(torch, name)
                    if function is not None:
                        operators.setdefault(name, []).append((node, node.target, function))

        def works(names: Iterable[str]) -> bool:
            for name in names:
                for node, _, function in operators[name]:
                    node.target = function
            self.run = self._as_code()
            if _agrees(torch, wanted, self.run):
                return True
            for name in names:
                for node, operator, _ in operators[name]:
                    node.target = operator
            return False

        if not works(operators):
            for name in operators:
                works([name])
            self.run = self._as_code()


def _graphs(module: Any) -> list[Any]:
    """The modules out of `torch.export.unflatten` that have a graph."""
    return [part for part in module.modules() if hasattr(part, "graph_module")]


def _tidied(torch: Any, graph: Any) -> None:
    """Take out of a graph what the module does not do, and what its code can't be made of."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.name == "self":  # a module of that name, as in transformers' BERT
            node._rename("itself")
            if node.op == "placeholder":
                node.target = node.name


def _use_cudnn(torch: Any, program: Any) -> None:
    """Have normalisations use cuDNN where modules do; torch.export wrote down that they don't."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            for at, argument in enumerate(node.target._schema.arguments[: len(node.args)]):
                if argument.name in ("cudnn_enable", "cudnn_enabled"):
                    node.update_arg(at, torch.backends.cudnn.enabled)
    program.graph_module.recompile()


def _called_directly(module: Any) -> Callable[..., object]:
    """The network as code; its inputs are those of the graph.

    Args:
        module: of `torch.export.unflatten`, whose modules run their graphs' code from now on.
    """
    for part in _graphs(module):
        part.finalize()  # makes code of its graph
        # A Sequential finds its layers without asking for them by name.
        part.__dict__.update({n: m for n, m in part.named_children() if n.isdigit()})
        if part is not module:
            part.forward = types.MethodType(type(part.graph_module).forward, part)
    return types.MethodType(type(module.graph_module).forward, module)


def _function(torch: Any, operator: str) -> Any:
    """torch's function for an operator ("aten::add.Tensor"); None where it has none in C++."""
    namespace, _, name = operator.partition("::")
    for place in (torch, torch._C._nn, torch.Tensor) if namespace == "aten" else ():
        found = getattr(place, name.partition(".")[0], None)
        if isinstance(found, _BUILTIN):
            return found
    return None


def _agrees(torch: Any, wanted: object, run: Callable[[], object]) -> bool:
    """Whether a run gives what an earlier one gave."""
    try:
        found = run()
    except Exception:  # a function that takes other arguments than the operator of its name
        return False
    one, other = (torch.utils._pytree.tree_leaves(each) for each in (wanted, found))
    return len(one) == len(other) and all(map(partial(_same, torch), one, other))


def _same(torch: Any, one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    if not isinstance(other, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True))
