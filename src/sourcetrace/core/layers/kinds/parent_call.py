"""Subclasses whose own forward calls their parent's once: scaled embeddings, causal convolutions.

What the weight meets is what the parent's forward is given, and autograd is asked for the gradient
of what that returns. A first call shows whether the weight is used there alone. To record a call,
the subclass's forward is run once more with a parent's that notes it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.elementwise import as_before, has_layers_inside, near
from sourcetrace.core.layers.kinds.registry import LAYER_TYPES
from sourcetrace.core.layers.kinds.types import LayerType, overridden, second_run
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.errors import InputError


@contextmanager
def _noting(
    module: nn.Module, known: type[nn.Module], note: Callable[[Any, Any], Any]
) -> Iterator[None]:
    """Let `note` see the first argument and the output of the parent's forward, and return it."""
    owner: Any = next(base for base in known.__mro__ if "forward" in vars(base))
    forward = owner.forward

    def noting(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        output = forward(self, *arguments, **keywords)
        if self is not module:
            return output
        return note(next(iter((*arguments, *keywords.values())), None), output)

    try:
        owner.forward = noting
        yield
    finally:
        owner.forward = forward


def _call(
    known: type[nn.Module],
    module: nn.Module,
    examples: int | None,
    _: Tensor,
    *arguments: Any,
    **keywords: Any,
) -> tuple[Tensor, ...]:
    seen: list[tuple[Tensor, Tensor]] = []

    def note(values: Tensor, output: Tensor) -> Tensor:
        if examples is not None and len(values) == 1:  # positions that serve all examples
            values, output = (one.expand(examples, *one.shape[1:]) for one in (values, output))
        seen.append((values, output))
        return output

    with _noting(module, known, note):
        again = module.forward(*arguments, **keywords)
    if len(seen) != 1:
        raise InputError(
            f"A {type(module).__name__} called the forward of {known.__name__} {len(seen)} times, "
            "and once in an earlier batch. Models whose layers depend on the data are not "
            "supported: freeze it, or let it call its parent once."
        )
    return (*seen[0], again)


def _parent(module: nn.Module) -> tuple[LayerType, type[nn.Module]] | None:
    """Return a known class of which a module has all but the forward, and its kind."""
    for kind in LAYER_TYPES:
        known = kind.module
        if isinstance(known, str) or kind.call is not None or not isinstance(module, known):
            continue
        if overridden(type(module), known) == ["forward"]:
            return kind, known
    return None


def parent_call_kind(
    module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any
) -> LayerType | None:
    """Return the kind of a subclass that computes with its parent's forward alone, if it is one.

    Args:
        module: The module.
        arguments: Of a call.
        keywords: Of the call, too.
        output: What that returned, with gradients.
    """
    parent = _parent(module)
    if parent is None or not isinstance(output, Tensor) or has_layers_inside(module):
        return None
    kind, known = parent
    seen: list[tuple[Any, Any]] = []

    def cut(values: Any, inner: Any) -> Any:
        seen.append((values, inner))
        return inner.detach().requires_grad_() if isinstance(inner, Tensor) else inner

    # Copies: what changes its input in place shall not change the model's. Detached: the weight may
    # also be in what came before.
    given, named = map_tensors((arguments, dict(keywords)), lambda one: one.detach().clone())
    with _noting(module, known, cut), as_before(module), second_run():
        again = module.forward(*given, **named)
    if len(seen) != 1 or not all(isinstance(one, Tensor) for one in seen[0]):
        return None
    values, inner = seen[0]
    # The example first in all of them.
    if not inner.requires_grad or not values.shape[:1] == inner.shape[:1] == output.shape[:1]:
        return None
    # What counts its calls, draws numbers or changes its input in place gives something else.
    if again.shape != output.shape or not near(again, output, scale=output):
        return None
    trainable = [one for one in module.parameters() if one.requires_grad]
    if again.requires_grad:
        elsewhere = torch.autograd.grad(again.sum(), trainable, allow_unused=True)
        if any(gradient is not None for gradient in elsewhere):
            return None
    call = partial(_call, known)
    return replace(kind, module=type(module), feature_dimensions=None, call=call)
