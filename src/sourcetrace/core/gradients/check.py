"""Whether per-example gradients add up to the gradient that autograd gives the parameters.

They do not where a weight is used in a way that no module shows, such as
`F.linear(hidden, embedding.weight)`, or where a layer type is laid out wrongly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.errors import InputError

_TOLERANCE = 0.01
"""Far above rounding, TensorFloat-32's too; a use that is left out is off by much more."""


def check_gradients(
    model: nn.Module,
    coverage: Coverage,
    run_forward: Callable[[], Any],
    loss_of: Callable[[Any], Tensor],
    *,
    examples: int,
) -> None:
    """Compare Σ_n ∇W_n of every layer with autograd, on one small batch.

    Args:
        model: The model, in evaluation mode.
        coverage: Its layers.
        run_forward: Runs the forward pass and returns the outputs.
        loss_of: Outputs -> one value an example, [N].
        examples: N.

    Raises:
        InputError: If a layer's sum differs; its parameters' attribution would be wrong.
    """
    passed = ForwardPass(model, coverage.layers, run_forward, examples=examples)
    loss = loss_of(passed.outputs)
    gradients = passed.gradients(passed.inputs(), passed.output_gradients(loss, last=False))
    names = [name for layer in coverage.layers for name in layer.parameters]
    found = torch.autograd.grad(loss.sum(), [model.get_parameter(name) for name in names])
    expected = dict(zip(names, found, strict=True))
    for layer in coverage.layers:
        whole = layer.weight_matrix(expected)
        # Rounding grows with the terms that cancel in the sum, not with the sum.
        scale = gradients[layer.name].squared_norms().sqrt().sum() + whole.norm()
        difference = (gradients[layer.name].dense().sum(0) - whole).norm()
        if difference > max(_TOLERANCE, torch.finfo(whole.dtype).eps ** 0.5) * scale:
            share = float(difference / scale)
            raise InputError(
                f"{layer.name}: its examples' gradients do not add up to the gradient of "
                f"{', '.join(layer.parameters)} (off by {share:.1%}). The weight is used where no "
                "module shows it, as in F.linear(hidden, embedding.weight), or the registered "
                "layer type lays it out wrongly. Use a module that shares the weight instead "
                "(output.weight = embedding.weight), or freeze it."
            )
