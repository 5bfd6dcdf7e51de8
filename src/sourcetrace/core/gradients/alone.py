"""Per-example gradients by one pass of every example alone.

For layers whose inputs do not say which example they belong to: tokens of all examples in one
dimension, the nodes of a batch of graphs, experts that the data chooses. In the pass of one
example everything is that example's. So it is for bare parameters, which no known kind of module
covers: such a parameter p is a bias by itself, its input is 1, and the gradient at its output is
its own, [N, 1, 1, D_out] with D_out its size. Exact, because examples are independent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, cat, nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.per_example import Positions
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.layers.layer import Layer

Single = tuple[Callable[[], Any], Callable[[Any], Sequence[Tensor]]]
"""What runs the forward pass of one example, and what takes its losses of the outputs, [1] each."""

LayerPositions = dict[str, Positions]
"""Inputs or output gradients by layer name, [N, groups, S, D], 0 behind an example's last."""


def positions_alone(
    model: nn.Module, layers: Sequence[Layer], singles: Iterable[Single]
) -> tuple[LayerPositions, list[LayerPositions]]:
    """Return the inputs of layers that take such passes, and their output gradients a loss each.

    Args:
        model: The model, in evaluation mode.
        layers: The layers.
        singles: Every example. They are asked for one after the other, so that one graph is held
            at a time.
    """
    inputs: list[LayerPositions] = []
    gradients: list[list[LayerPositions]] = []
    for run_forward, losses_of in singles:
        captured = ForwardPass(model, layers, run_forward, examples=1, alone=True)
        inputs.append(captured.inputs())
        losses = losses_of(captured.outputs)
        gradients.append(
            [
                captured.output_gradients(loss, last=place == len(losses))
                for place, loss in enumerate(losses, 1)
            ]
        )
    return _joined(inputs), [_joined(of_loss) for of_loss in zip(*gradients, strict=True)]


def _joined(examples: Sequence[LayerPositions]) -> LayerPositions:
    return {name: _padded([one[name] for one in examples]) for name in examples[0]}


def _padded(parts: Sequence[Positions]) -> Positions:
    tied = [one for one in parts if isinstance(one, TiedPositions)]
    if tied:
        return TiedPositions(
            _padded_tensors([one.linear for one in tied]),
            _padded_tensors([one.embedding for one in tied]),
        )
    return _padded_tensors([one for one in parts if isinstance(one, Tensor)])


def _padded_tensors(parts: Sequence[Tensor]) -> Tensor:
    """Join [1, groups, S, D], or indices [1, S]; at least one position, where none is used."""
    if not parts[0].is_floating_point():
        longest = max(1, *(one.shape[1] for one in parts))
        return cat([F.pad(one, (0, longest - one.shape[1]), value=-1) for one in parts])
    longest = max(1, *(one.shape[2] for one in parts))
    return cat([F.pad(one, (0, 0, 0, longest - one.shape[2])) for one in parts])
