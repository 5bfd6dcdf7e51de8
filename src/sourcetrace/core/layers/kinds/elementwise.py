"""Modules that multiply every feature by a number of its own, found by trying them.

Their output is affine in the weight, w ∘ x̂ + b and whatever is beside it, as of the RMSNorms of
transformers, with w or 1 + w, of `nn.PReLU`, whose x̂ are the negative inputs, and of many modules
that nobody lists. So x̂ is the output with a weight of ones, less that with zeros, and another
weight shows whether that is all.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sourcetrace.core.layers.kinds.normalisation import channels, features, last_dimensions
from sourcetrace.core.layers.kinds.types import LayerType

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


@torch.no_grad()
def _output(
    module: Any, weight: Tensor, bias: Tensor, arguments: tuple[Any, ...], keywords: Any
) -> Tensor:
    given = {"weight": weight, "bias": bias}
    own = {f"module.{name}": given[name] for name in _own(module)}
    found: Tensor = functional_call(_WithoutHooks(module), own, arguments, keywords)
    return found


def _factors(module: Any, arguments: tuple[Any, ...], keywords: Any) -> tuple[Tensor, Tensor]:
    """Return x̂, and the output with a weight and a bias of 0."""
    none = torch.zeros_like(module.weight)
    offset = _output(module, none, none, arguments, keywords)
    return _output(module, none + 1, none, arguments, keywords) - offset, offset


def _call(
    module: Any, _: int | None, output: Tensor, *arguments: Any, **keywords: Any
) -> tuple[Tensor, ...]:
    return _factors(module, arguments, keywords)[0], output, output


PRELU = LayerType(nn.PReLU, channels, channels, features, call=_call)

_CHANNELS = LayerType(nn.Module, channels, channels, features, call=_call)

_LAST = LayerType(
    nn.Module,
    last_dimensions,
    last_dimensions,
    features,
    feature_dimensions=lambda module: module.weight.ndim,
    call=_call,
)


def has_layers_inside(module: nn.Module) -> bool:
    """Return whether a module holds others with parameters, which must run once a call."""
    return any(_own(inside) for inside in module.modules() if inside is not module)


def may_be_elementwise(module: nn.Module) -> bool:
    """Return whether a module's parameters are a weight and perhaps a bias of its shape."""
    own = _own(module)
    if has_layers_inside(module):
        return False
    weight, bias = own.pop("weight", None), own.pop("bias", None)
    if own or weight is None or weight.ndim == 0:
        return False
    return bias is None or bias.shape == weight.shape


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
    tensor = isinstance(output, Tensor) and output.is_floating_point()
    if not tensor or not may_be_elementwise(module):
        return None
    shape, size, dimensions = module.weight.shape, module.weight.numel(), output.ndim
    candidates = []
    if output.shape[max(0, dimensions - len(shape)) :] == shape:
        candidates.append((_LAST, shape))
    if len(shape) == 1 and size in (1, *output.shape[1:2]):
        candidates.append((_CHANNELS, torch.Size((size, *[1] * (dimensions - 2)))))
    if not candidates:
        return None
    factors, offset = _factors(module, arguments, keywords)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(module.weight)
    change = _output(module, values, values, arguments, keywords) - offset
    if "bias" in _own(module):
        factors = factors + 1
    bound = max(_TOLERANCE, torch.finfo(output.dtype).eps ** 0.5) * change.norm()
    for kind, laid_out in candidates:
        difference = (change - values.reshape(laid_out) * factors).norm()
        if change.norm() > 0 and difference <= bound:
            return kind
    return None
