"""A frozen network compiled by Inductor: what lies between its convolutions in as few passes as there can be."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fvfast.recorded import tape_of
from fvfast.tape import Ref, Tape


def compiled(
    run: Callable[[Tensor], list[Tensor]], image: Tensor, backend: str = "inductor"
) -> Callable[[Tensor], list[Tensor]]:
    """`run` compiled for images like this one [B, C, H, W]; it compiles when it is first called.

    What is compiled is the recorded network, without its hooks and its Python; its weights are constants, so that only
    the image has a gradient. Inductor's default mode, not "max-autotune": see docs/performance.md.
    Raises `Refused` where the network cannot be recorded.
    """
    return torch.compile(graph_of(tape_of(run, image)), backend=backend, fullgraph=True, dynamic=False)


def graph_of(tape: Tape) -> fx.GraphModule:
    """A tape as a graph module from the image to a list of outputs; constants are its buffers."""
    root, graph = nn.Module(), fx.Graph()
    memory: dict[int, fx.Node] = {0: graph.placeholder("image")}
    constants: dict[int, fx.Node] = {}

    def node_of(value: Any) -> Any:
        if isinstance(value, Ref):
            return memory[value.index]
        if isinstance(value, Tensor):
            if id(value) not in constants:
                name = f"constant{len(constants)}"
                root.register_buffer(name, value.detach())
                constants[id(value)] = graph.get_attr(name)
            return constants[id(value)]
        if isinstance(value, (tuple, list)):
            return type(value)(node_of(v) for v in value)
        if isinstance(value, dict):
            return {key: node_of(v) for key, v in value.items()}
        return value

    for op in tape.ops:
        made = graph.call_function(op.call, node_of(op.args), node_of(op.kwargs))
        for at, place in enumerate(op.out):
            if place is not None:
                memory[place] = graph.call_function(operator.getitem, (made, at)) if _several(op.call) else made
    graph.output([memory[place] for place in tape.outputs])
    return fx.GraphModule(root, graph)


def _several(call: Any) -> bool:
    """Whether an operation of PyTorch's (an `OpOverload`) gives its results as a tuple or a list."""
    returns = call._schema.returns
    return len(returns) != 1 or isinstance(returns[0].type, torch.ListType)
