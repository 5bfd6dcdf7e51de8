"""A node that takes what its function's arguments are called."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

from kedro.pipeline import node
from kedro.pipeline.node import Node
from pydantic import BaseModel


def step(
    function: Callable[..., Any],
    outputs: str | list[str],
    *written: str,
    confirms: Sequence[str] = (),
    **entries: str,
) -> Node:
    """Return the node of a function, which bears its name.

    Kedro loads the inputs in the order of the arguments.

    Args:
        function: Its arguments are called as the entries of the catalog that it is given; those by
            keyword alone are for other callers.
        outputs: Entries in which its results are saved, in this order.
        written: Entries that it takes as `*written`, to run after them.
        confirms: Entries that are complete when the node is.
        entries: Argument -> entry, where the entry is called otherwise. Without it, an argument
            that is a group of parameters has that of its name: `gate: GateParameters` is
            `params:gate`.
    """
    inputs = []
    for name, one in signature(function).parameters.items():
        group = isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel)
        if one.kind is Parameter.POSITIONAL_OR_KEYWORD:
            inputs.append(entries.get(name, f"params:{name}" if group else name))
    return node(
        function,
        inputs=[*inputs, *written],
        outputs=outputs,
        name=function.__name__,
        confirms=list(confirms),
    )
