"""A node that takes what its function's arguments are called."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

from kedro.pipeline import node
from kedro.pipeline.node import Node


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
        function: Its arguments are called as the entries of the catalog that it is given.
        outputs: Entries in which its results are saved, in this order.
        written: Entries that it takes as `*written`, to run after them.
        confirms: Entries that are complete when the node is.
        entries: Argument -> entry, where the entry is called otherwise: `gate="params:gate"`.
    """
    arguments = signature(function).parameters.values()
    names = [one.name for one in arguments if one.kind is not Parameter.VAR_POSITIONAL]
    return node(
        function,
        inputs=[*(entries.get(name, name) for name in names), *written],
        outputs=outputs,
        name=function.__name__,
        confirms=list(confirms),
    )
