"""Whether per-example gradients add up to the gradient that autograd gives the parameters.

They do not where a weight is used in a way that no module shows, such as
`F.linear(hidden, embedding.weight)`, or where a layer type is laid out wrongly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.core.gradients.alone import Single, positions_alone
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.per_example import Gradients
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.errors import InputError

_TOLERANCE = 0.01
"""Far above rounding, TensorFloat-32's too; a use that is left out is off by much more."""

_ROUNDINGS = 16
"""How many of them a gradient of 0 may be made of, in units of the largest gradient's."""


def check_gradients(
    model: nn.Module,
    coverage: Coverage,
    run_forward: Callable[[], Any],
    loss_of: Callable[[Any], Tensor],
    *,
    examples: int,
    alone: Callable[[int], Single] | None = None,
) -> float:
    """Compare Σ_n ∇W_n of every layer with autograd, on one small batch.

    Args:
        model: The model, in evaluation mode.
        coverage: Its layers.
        run_forward: Runs the forward pass and returns the outputs.
        loss_of: Outputs -> one value an example, [N].
        examples: N.
        alone: Place of an example -> its passes in a batch of its own, where a layer needs them.

    Returns:
        The largest relative difference of a layer.

    Raises:
        InputError: If a layer's sum differs; its parameters' attribution would be wrong.
    """
    passed = ForwardPass(model, coverage.layers, run_forward, examples=examples)
    loss = loss_of(passed.outputs)
    inputs, output_gradients = passed.inputs(), passed.output_gradients(loss, last=False)
    if coverage.alone and alone is not None:
        own, (own_gradients,) = positions_alone(model, coverage.alone, map(alone, range(examples)))
        inputs, output_gradients = inputs | own, output_gradients | own_gradients
    shares = _differences(model, passed.gradients(inputs, output_gradients), coverage.layers, loss)
    for layer, share in shares.items():
        if share > _tolerance(model):
            raise InputError(
                f"{layer.name}: its examples' gradients do not add up to the gradient of "
                f"{', '.join(layer.parameters)} (off by {share:.1%}). {_cause(layer)}"
            )
    return max(shares.values())


def hidden_uses(
    model: nn.Module, coverage: Coverage, run_forward: Callable[[], Any], *, examples: int
) -> set[str]:
    """Return the parameters whose gradient their layers' calls do not make up.

    As `check_gradients` finds them, by a sum of the outputs in place of a loss; none where the
    outputs are no tensors.

    Args:
        model: The model, in evaluation mode.
        coverage: Its layers.
        run_forward: Runs the forward pass and returns the outputs.
        examples: N.
    """
    layers = [layer for layer in coverage.layers if not layer.alone]
    if not layers:
        return set()
    passed = ForwardPass(model, layers, run_forward, examples=examples)
    generator = torch.Generator().manual_seed(0)
    sums: list[Tensor] = []

    def note(output: Tensor) -> Tensor:
        if output.requires_grad and output.is_floating_point():
            weights = torch.rand(output.shape, generator=generator).to(output)
            sums.append((output * weights).sum())
        return output

    map_tensors(passed.outputs, note)
    if not sums:
        return set()
    loss = torch.stack([one.to(sums[0]) for one in sums])
    gradients = passed.gradients(passed.inputs(), passed.output_gradients(loss, last=False))
    shares = _differences(model, gradients, layers, loss)
    return {
        name
        for layer, share in shares.items()
        if share > _tolerance(model)
        for name in layer.parameters
    }


def _tolerance(model: nn.Module) -> float:
    return max(_TOLERANCE, math.sqrt(_rounding(model)))


def _rounding(model: nn.Module) -> float:
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return float(torch.finfo(dtype).eps)


def _differences(
    model: nn.Module, gradients: Gradients, layers: Sequence[Layer], loss: Tensor
) -> dict[Layer, float]:
    """Return how far each layer's examples are from autograd's gradient together, relative."""
    names = [name for layer in layers for name in layer.parameters]
    with without_fused_kernels():  # recomputed activations run the model again
        found = torch.autograd.grad(
            loss.sum(),
            [model.get_parameter(name) for name in names],
            allow_unused=True,
            materialize_grads=True,
        )
    expected = dict(zip(names, found, strict=True))
    # Rounding grows with the terms that cancel in the sum, not with the sum; where all of a
    # gradient cancels, as that of a key's bias in attention does, with those of other layers.
    scales, differences = {}, {}
    for layer in layers:
        whole = layer.weight_matrix(expected)
        scales[layer] = float(gradients[layer.name].squared_norms().sqrt().sum() + whole.norm())
        differences[layer] = float((gradients[layer.name].summed()[0] - whole).norm())
    least = _ROUNDINGS * _rounding(model) * max(scales.values())
    return {
        layer: 0.0 if difference <= least else difference / scales[layer]
        for layer, difference in differences.items()
    }


def _cause(layer: Layer) -> str:
    if layer.alone:
        return (
            "An example alone gives another gradient than in a batch: expected examples that do "
            "not depend on each other. Let every example count by itself, or freeze it."
        )
    return (
        "The weight is used where no module shows it, as in F.linear(hidden, embedding.weight), "
        "or the registered layer type lays it out wrongly. Use a module that shares the weight "
        "instead (output.weight = embedding.weight), or freeze it."
    )
