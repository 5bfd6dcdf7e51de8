"""Per-example gradients of bare parameters, by one pass of every example alone.

A parameter p that no known kind of module covers is a bias by itself: its input is 1, and the
gradient at its output is its own, [N, 1, 1, D_out] with D_out its size. Nothing says where the
model uses it, so that a batch's gradient cannot be taken apart into those of its examples.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.layer import Layer


def bare_gradients(
    model: nn.Module, layers: Sequence[Layer], losses: Iterable[Sequence[Tensor]]
) -> list[dict[str, Tensor]]:
    """Return the gradients of bare parameters, for each loss: layer -> [N, 1, 1, D_out].

    Args:
        model: The model, in evaluation mode.
        layers: The parameters.
        losses: Of every example alone, [1] each. They are asked for one example after the other,
            so that one graph is held at a time.
    """
    parameters = [model.get_parameter(layer.parameters[0]) for layer in layers]
    rows: list[list[list[Tensor]]] = []
    with torch.enable_grad(), without_fused_kernels():
        for own in losses:
            last = len(own) - 1
            rows.append(
                [_gradients(parameters, loss, last=place == last) for place, loss in enumerate(own)]
            )
    return [
        {
            layer.name: torch.stack(gradients)[:, None, None]
            for layer, gradients in zip(layers, zip(*of_loss, strict=True), strict=True)
        }
        for of_loss in zip(*rows, strict=True)
    ]


def _gradients(parameters: Sequence[nn.Parameter], loss: Tensor, *, last: bool) -> list[Tensor]:
    """Return the gradients, flat; 0 for a parameter that this example does not use."""
    if not loss.requires_grad:
        return [torch.zeros_like(one).flatten() for one in parameters]
    found = torch.autograd.grad(
        loss.sum(), parameters, retain_graph=not last, allow_unused=True, materialize_grads=True
    )
    return [one.flatten() for one in found]
