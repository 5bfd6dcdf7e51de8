"""Products of the exact Gauss–Newton matrix G = E[Jᵀ H_out J] with a block of directions.

J is the derivative of the model's outputs by the attributed parameters, H_out the Hessian of
the training loss by the outputs. No matrix is formed: for a direction V,

    u = J V,    w = H_out u,    G V = Jᵀ w.

Jᵀ and H_out are backward passes. J is one too: Jᵀ s is linear in s, so that its derivative by
s, taken backwards along V, is J V. That costs what a forward-mode derivative does, and asks
nothing of the model but that it can be differentiated twice: forward mode would need a
functional form of it and a forward derivative of every operation.

The directions go through each pass as one block; the forward pass and the graph of Jᵀ s are
shared by all of them. Layers part the attributed parameters, so that a weight with several uses
has one block, over all of them.

Shapes: directions by layer, [Q, groups, D_out, D_in].
Source: Schraudolph 2002 (the three products); Pearlmutter 1994 (the backward pass for J).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.objective import Objective
from sourcetrace.errors import InputError

_DIRECTIONS = 16
"""Directions in one pass: memory holds that many times a batch's activations."""


def gauss_newton_products(
    model: nn.Module,
    layers: Sequence[Layer],
    objective: Objective,
    batch: Any,
    directions: Mapping[str, Tensor],
    *,
    examples: int,
) -> dict[str, Tensor]:
    """Return Σ over the batch's examples of Jᵀ H_out J V, by layer as the directions.

    Args:
        model: The model, in evaluation mode.
        layers: The attributed layers that the directions are of; others are held still.
        objective: Forward pass and training loss.
        batch: A collated batch.
        directions: V by layer, [Q, groups, D_out, D_in].
        examples: How many the batch has.

    Raises:
        InputError: If no output that the loss depends on depends on the layers.
    """
    parameters = {name: model.get_parameter(name) for one in layers for name in one.parameters}
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), without_fused_kernels():
        outputs = objective.forward(model, batch)
        edges, loss_gradients, live = _output_loss(objective, outputs, batch, examples)
        cotangents = [torch.zeros_like(one, requires_grad=True) for one in live]
        transposed = torch.autograd.grad(
            live, list(parameters.values()), cotangents, create_graph=True, allow_unused=True
        )
    reached = {
        name: gradient
        for name, gradient in zip(parameters, transposed, strict=True)
        if gradient is not None and gradient.requires_grad
    }
    if not reached:
        raise InputError(
            "The training loss does not depend on any attributed parameter through the outputs "
            "of the task's forward: expected a loss of these outputs. Return from forward what "
            "train_loss differentiates, not detached."
        )

    def products(rows: Tensor) -> dict[str, Tensor]:
        """Return the products of some directions, from the graphs that all share."""
        tangents: dict[str, Tensor] = {}
        for layer in layers:
            tangents |= layer.parameter_tensors(directions[layer.name][rows], parameters)
        along = [tangents[name] for name in reached]
        forward = _pull_back(list(reached.values()), cotangents, along)
        curved = [
            (gradient, tangent)
            for gradient, tangent in zip(loss_gradients, forward, strict=True)
            if gradient.requires_grad  # a loss linear in an output has no curvature there
        ]
        found: dict[str, Tensor] = {}
        if curved:
            gradients, moved = zip(*curved, strict=True)
            bent = _pull_back(gradients, edges, moved)
            back = _pull_back(live, [parameters[name] for name in reached], bent)
            found = dict(zip(reached, back, strict=True))
        everything = {
            name: found.get(name, torch.zeros_like(one)) for name, one in tangents.items()
        }
        return {layer.name: _layer_matrices(layer, everything) for layer in layers}

    count = len(next(iter(directions.values())))
    parts = [products(rows) for rows in torch.split(torch.arange(count), _DIRECTIONS)]
    return {name: torch.cat([part[name] for part in parts]) for name in directions}


def _output_loss(
    objective: Objective, outputs: Any, batch: Any, examples: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return copies of the outputs that the loss uses, its gradient by them, and the outputs."""
    found: list[tuple[Tensor, Tensor]] = []

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        edge = tensor.detach().requires_grad_()
        found.append((tensor, edge))
        return edge

    loss = objective.train_loss(map_tensors(outputs, cut), batch)
    loss = per_example_loss(loss, name="train_loss", examples=examples)
    if not found or not loss.requires_grad:
        return [], [], []
    gradients = torch.autograd.grad(
        loss.sum(), [edge for _, edge in found], create_graph=True, allow_unused=True
    )
    used = [
        (edge, gradient, tensor)
        for (tensor, edge), gradient in zip(found, gradients, strict=True)
        if gradient is not None
    ]
    edges, slopes, live = (list(column) for column in zip(*used, strict=True))
    return edges, slopes, live


def _pull_back(
    values: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    """Return Σ cotangentᵀ ∂value/∂input for each of Q cotangents, [Q, …] an input."""
    count = len(cotangents[0])
    gradients = partial(torch.autograd.grad, values, inputs, retain_graph=True, allow_unused=True)
    found: Sequence[Tensor | None]
    try:
        found = gradients(cotangents, is_grads_batched=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an operation without a batching rule: one direction at a time
        rows = [gradients([one[row] for one in cotangents]) for row in range(count)]
        found = [
            None if column[0] is None else torch.stack([one for one in column if one is not None])
            for column in zip(*rows, strict=True)
        ]
    return [
        one.new_zeros(count, *one.shape) if gradient is None else gradient
        for one, gradient in zip(inputs, found, strict=True)
    ]


def _layer_matrices(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Lay out [Q, …] of every parameter as [Q, groups, D_out, D_in]."""
    count = len(tensors[layer.parameters[0]])
    return torch.stack(
        [
            layer.weight_matrix({name: tensors[name][row] for name in layer.parameters})
            for row in range(count)
        ]
    )
