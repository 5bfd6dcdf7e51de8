"""Modules that multiply every feature by a number of its own, found by trying them.

Their output is affine in the weight, w ∘ x̂ + b and whatever is beside it, as of the RMSNorms of
transformers, with w or 1 + w, of `nn.PReLU`, whose x̂ are the negative inputs, and of many modules
that nobody lists. So x̂ is the output with a weight of ones, less that with zeros, and another
weight shows whether that is all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.core.machine.nested import map_tensors

_TOLERANCE = 1e-3
"""Modules may compute in less than the model's precision."""


class _WithoutHooks(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.module.forward(*arguments, **keywords)


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


@contextmanager
def as_before(module: nn.Module) -> Iterator[None]:
    """Put a module's attributes back at the end: a trial may keep counts and tensors in them."""
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)


@torch.no_grad()
def near(found: Tensor, expected: Tensor, *, scale: Tensor) -> bool:
    """Return whether two tensors are the same but for rounding, of numbers as large as `scale`."""
    share = max(_TOLERANCE, torch.finfo(found.dtype).eps ** 0.5)
    return bool((found - expected).norm() <= share * scale.norm())


@torch.no_grad()
def _output(
    module: nn.Module,
    given: Mapping[str, Tensor],
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
) -> Tensor:
    """Return the output with other values of the module's parameters."""
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    inside = {f"module.{name}": value for name, value in (buffers | dict(given)).items()}
    with as_before(module):
        found: Tensor = functional_call(_WithoutHooks(module), inside, arguments, dict(keywords))
    return found


def _factors(
    weight: str, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return x̂, and the output where all parameters are 0."""
    zeros = {name: torch.zeros_like(value) for name, value in _own(module).items()}
    offset = _output(module, zeros, arguments, keywords)
    ones = zeros | {weight: zeros[weight] + 1}
    return _output(module, ones, arguments, keywords) - offset, offset


def _call(
    weight: str, module: Any, _: int | None, output: Tensor, *arguments: Any, **keywords: Any
) -> tuple[Tensor, ...]:
    return _factors(weight, module, arguments, keywords)[0], output, output


def _aligned(weight: Tensor, dimensions: int) -> list[int]:
    """Return the weight's sizes in the dimensions of an output with which it is broadcast."""
    return [1] * (dimensions - weight.ndim) + list(weight.shape)


def _broadcast(weight: Tensor, values: Tensor) -> Tensor:
    """Lay out [N, …], with which the weight is broadcast, as [N, features, S, 1]."""
    sizes = _aligned(weight, values.ndim)
    features = [dimension for dimension, size in enumerate(sizes) if size > 1]
    others = [dimension for dimension in range(1, values.ndim) if dimension not in features]
    return values.permute(0, *features, *others).reshape(len(values), weight.numel(), -1, 1)


def _channels(weight: Tensor, values: Tensor) -> Tensor:
    """Lay out [N, features, …] as [N, features, S, 1]."""
    return values.reshape(len(values), weight.numel(), -1, 1)


def _kind(
    names: tuple[str, str],
    lay_out: Callable[[Tensor, Tensor], Tensor],
    *,
    feature_dimensions: Callable[[Any], int] | None = None,
) -> LayerType:
    def weight_of(module: nn.Module) -> Tensor:
        return module.get_parameter(names[0])

    def positions(module: nn.Module, values: Tensor) -> Tensor:
        return lay_out(weight_of(module), values)

    return LayerType(
        nn.Module,
        positions,
        positions,
        lambda module: weight_of(module).numel(),
        names=names,
        feature_dimensions=feature_dimensions,
        call=partial(_call, names[0]),
    )


PRELU = replace(_kind(("weight", ""), _channels), module=nn.PReLU)


def has_layers_inside(module: nn.Module) -> bool:
    """Return whether a module holds others with parameters, which must run once a call."""
    return any(_own(inside) for inside in module.modules() if inside is not module)


def _may_be_elementwise(module: nn.Module) -> bool:
    """Return whether a module's parameters are one, or two of the same shape."""
    own = list(_own(module).values())
    if has_layers_inside(module) or len(own) not in (1, 2):
        return False
    return own[0].is_floating_point() and own[0].shape == own[-1].shape


def _candidates(names: tuple[str, str], weight: Tensor, output: Tensor) -> Iterator[LayerType]:
    """Yield the layouts that shapes allow, with what the weight is in each."""
    sizes = _aligned(weight, output.ndim)
    fits = zip(sizes, (1, *output.shape[1:]), strict=False)
    if len(sizes) == output.ndim and all(size in (1, there) for size, there in fits):
        first = next((place for place, size in enumerate(sizes) if size > 1), output.ndim)
        yield _kind(names, _broadcast, feature_dimensions=lambda _: output.ndim - first)
    if weight.ndim == 1 and output.shape[1:2] == weight.shape:
        yield _kind(names, _channels)


def elementwise_kind(
    module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any
) -> LayerType | None:
    """Return how a module lays out the features that it multiplies; None if it does more.

    Args:
        module: The module.
        arguments: Of a call.
        keywords: Of the call, too.
        output: What that returned.
    """
    tensor = isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 0
    if not tensor or not _may_be_elementwise(module):
        return None
    own = _own(module)
    shape = next(iter(own.values())).shape
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn(shape, generator=generator).to(one) for name, one in own.items()}
    # Copies: what changes its input in place shall not change the model's.
    arguments, keywords = map_tensors((arguments, dict(keywords)), Tensor.clone)
    for weight, bias in permutations(own) if len(own) > 1 else [(*own, "")]:
        for kind in _candidates((weight, bias), own[weight], output):
            try:
                factors, offset = _factors(weight, module, arguments, keywords)
                change = _output(module, given, arguments, keywords) - offset
            except Exception:  # other weights may be none that a module of the user's takes
                return None
            # The output as it was, too: the module may draw numbers, count calls, or cut weights.
            pairs = (given, change, change), (own, output.detach() - offset, output.detach())
            if bool(change.any()) and all(_agrees(kind, module, factors, *one) for one in pairs):
                return kind
    return None


def _agrees(
    kind: LayerType,
    module: nn.Module,
    factors: Tensor,
    given: Mapping[str, Tensor],
    change: Tensor,
    scale: Tensor,
) -> bool:
    """Return whether parameters change the output by w ∘ x̂ + b."""
    expected = kind.positions(module, factors) * given[kind.names[0]].reshape(1, -1, 1, 1)
    if kind.names[1]:
        expected = expected + given[kind.names[1]].reshape(1, -1, 1, 1)
    return near(kind.positions(module, change), expected, scale=scale)
