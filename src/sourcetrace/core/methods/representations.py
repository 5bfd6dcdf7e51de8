"""Representation similarity: how alike the model sees two examples, whatever their labels.

The cosine of the inputs of the last attributed layer at the final weights, averaged over the
positions of an example. It knows neither loss nor training: a yardstick that any attribution
must beat. The sign is that of a removal, as if the example helped what resembles it.

Source: Hanawa et al. 2021, arXiv 2006.04528.
"""

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.precision import products_in
from sourcetrace.errors import InputError


def representations(
    engine: GradientEngine, examples: Examples, point: EvaluationPoint, block: Block
) -> Tensor:
    """Return the last layer's mean input of every example, of length 1, [n, D].

    Raises:
        InputError: If the last attributed layer has no inputs but indices or a bias.
    """
    # A bias, and a bare parameter, has no inputs; those of other layers may be no example's.
    layers = engine.coverage.layers
    weights = [layer for layer in layers if layer.weight is not None and not layer.alone]
    layer = (weights or layers)[-1]
    index = engine.rows(examples, point, block).tolist()
    batch = examples.batch(index, engine.device)
    model = engine.model_at(point)
    with products_in(engine.precision, engine.device):
        captured = ForwardPass(
            model,
            [layer],
            lambda: engine.objective.forward(model, batch),
            examples=len(index),
        )
    engine.passes.count(len(index), backward=0)
    inputs = captured.inputs()[layer.name]
    values = inputs.linear if isinstance(inputs, TiedPositions) else inputs
    if not values.is_floating_point() or layer.weight is None or values.shape[2] == 0:
        raise InputError(
            f"representation_similarity compares the inputs of the last attributed layer, and "
            f"{layer.name} has none: expected a layer of features. Choose another method."
        )
    features = values if layer.bias is None else values[..., :-1]
    return torch.nn.functional.normalize(features.mean(2).flatten(1).detach(), dim=1)
