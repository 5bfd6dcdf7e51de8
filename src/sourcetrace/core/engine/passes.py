"""One forward pass of a batch, the backward passes that follow it, and what they tell.

Training examples: one backward pass with sampled labels and one with the given ones. Queries:
one of the measurement and one of the training loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import LayerTerms
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients.capture import ForwardPass, capture_forward, per_example_loss
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate, squared_norms
from sourcetrace.core.gradients.positions import Positions
from sourcetrace.core.layers.kinds.pixels import Pixels
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.objective import ExampleGenerator, Objective


@dataclass(frozen=True)
class BlockSignals:
    """What one forward and backward pass tells of each of its n examples.

    Attributes:
        examples: Their numbers, [n].
        loss, measurement: One value each, [n].
        gradient_norm: Of the loss, [n]; None where no backward pass was run.
        described: What the task adds, such as the predicted label; name -> n values.
    """

    examples: Tensor
    loss: Tensor
    measurement: Tensor
    gradient_norm: Tensor | None
    described: Mapping[str, Sequence[Any]]

    @classmethod
    def joined(cls, parts: "Sequence[BlockSignals]") -> "BlockSignals":
        """Join the signals of consecutive examples."""
        norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
        return cls(
            torch.cat([part.examples for part in parts]),
            torch.cat([part.loss for part in parts]),
            torch.cat([part.measurement for part in parts]),
            torch.cat(norms) if norms else None,
            {
                name: [value for part in parts for value in part.described[name]]
                for name in parts[0].described
            },
        )


@dataclass(frozen=True)
class TrainingPasses:
    """What the passes of n training examples gave.

    Attributes:
        signals: A row an example.
        gradients: Of the given labels' loss, by layer.
        sampled: Of the sampled labels' loss, by layer, n rows, or, of a block, the stage's own
            examples; none if they were not asked for.
        covariances: What the stage's own examples add, by layer.
    """

    signals: BlockSignals
    gradients: Mapping[str, LayerGradient]
    sampled: Mapping[str, LayerGradient]
    covariances: LayerTerms

    @classmethod
    def joined(cls, parts: "Sequence[TrainingPasses]") -> "TrainingPasses":
        """Join the passes of consecutive examples."""
        return cls(
            BlockSignals.joined([part.signals for part in parts]),
            concatenate([part.gradients for part in parts]),
            concatenate([part.sampled for part in parts]),
            {
                name: [batch for part in parts for batch in part.covariances[name]]
                for name in parts[0].covariances
            },
        )


QueryPasses = tuple[dict[str, LayerGradient], dict[str, LayerGradient]]
"""Gradients of the measurement, and of the training loss."""


def training_passes(
    model: nn.Module,
    objective: Objective,
    layers: Sequence[Layer],
    batch: Any,
    *,
    rows: Tensor,
    own: Tensor,
    seeds: Sequence[int],
    sampled: bool,
) -> TrainingPasses:
    """Run the passes of a batch of training examples.

    Args:
        model: The model, in evaluation mode.
        objective: Forward pass and losses.
        layers: The attributed layers.
        batch: The collated examples.
        rows: Their numbers, [n].
        own: Which of them make up the curvature, [n].
        seeds: Of their sampled labels.
        sampled: Whether these labels' gradients are made up, and not their covariances alone.
    """
    count = len(rows)
    captured, inputs = _captured(model, objective, layers, batch, count)
    generator = ExampleGenerator.for_examples(seeds)
    sampled_loss = objective.sampled_loss(captured.outputs, generator)
    sampled_outputs = captured.output_gradients(
        per_example_loss(sampled_loss, name="sampled_loss", examples=count), last=False
    )
    loss = objective.train_loss(captured.outputs, batch)
    outputs = captured.output_gradients(
        per_example_loss(loss, name="train_loss", examples=count), last=True
    )
    gradients = captured.gradients(inputs, outputs)
    sampled_gradients = captured.gradients(inputs, sampled_outputs) if sampled else {}
    sides = inputs | captured.pixels()
    covariances = {
        layer.name: [
            CovarianceTerms.of(
                layer, _own(sides[layer.name], own), _own(sampled_outputs[layer.name], own)
            )
        ]
        for layer in layers
    }
    norm = squared_norms(gradients).sqrt()
    signals = _signals(objective, rows, captured.outputs, batch, loss, norm=norm)
    return TrainingPasses(signals, gradients, sampled_gradients, covariances)


def gradients_alone(
    model: nn.Module,
    objective: Objective,
    layers: Sequence[Layer],
    batch: Any,
    *,
    count: int,
    seeds: Sequence[int] | None,
) -> dict[str, LayerGradient]:
    """Run a forward and one backward pass, where the rest of `training_passes` is known.

    Args:
        model: The model, in evaluation mode.
        objective: Forward pass and losses.
        layers: The attributed layers.
        batch: The collated examples.
        count: How many.
        seeds: Of their sampled labels; None for the given labels.
    """
    captured, inputs = _captured(model, objective, layers, batch, count)
    if seeds is None:
        name, loss = "train_loss", objective.train_loss(captured.outputs, batch)
    else:
        generator = ExampleGenerator.for_examples(seeds)
        name, loss = "sampled_loss", objective.sampled_loss(captured.outputs, generator)
    outputs = captured.output_gradients(
        per_example_loss(loss, name=name, examples=count), last=True
    )
    return captured.gradients(inputs, outputs)


def query_passes(
    model: nn.Module,
    objective: Objective,
    layers: Sequence[Layer],
    batch: Any,
    *,
    count: int,
) -> QueryPasses:
    """Run the passes of a batch of queries; arguments as of `gradients_alone`."""
    captured, inputs = _captured(model, objective, layers, batch, count)
    measurement = per_example_loss(
        objective.measurement(captured.outputs, batch), name="measurement", examples=count
    )
    loss = per_example_loss(
        objective.train_loss(captured.outputs, batch), name="train_loss", examples=count
    )
    measured = captured.output_gradients(measurement, last=False)
    gradients = captured.gradients(inputs, measured)
    losses = captured.gradients(inputs, captured.output_gradients(loss, last=True))
    return gradients, losses


def query_signals(
    model: nn.Module, objective: Objective, batch: Any, *, rows: Tensor
) -> BlockSignals:
    """Measure a batch of queries by a forward pass alone.

    Args:
        model: The model, in evaluation mode.
        objective: Forward pass and losses.
        batch: The collated queries.
        rows: Their numbers, [n].
    """
    with torch.no_grad():
        outputs = objective.forward(model, batch)
        loss = per_example_loss(
            objective.train_loss(outputs, batch), name="train_loss", examples=len(rows)
        )
        return _signals(objective, rows, outputs, batch, loss, norm=None)


def _captured(
    model: nn.Module, objective: Objective, layers: Sequence[Layer], batch: Any, count: int
) -> tuple[ForwardPass, dict[str, Positions]]:
    """Run the forward pass of `count` examples; return it, and the inputs of the layers."""
    captured = capture_forward(
        model, layers, lambda: objective.forward(model, batch), examples=count
    )
    return captured, captured.inputs(examples=count)


_Side = TypeVar("_Side", Positions, Positions | Pixels)


def _own(positions: _Side, own: Tensor) -> _Side:
    """Return the rows in `own`; indexing would copy where it is all of them, the usual case."""
    return positions if bool(own.all()) else positions[own]


def _signals(
    objective: Objective,
    rows: Tensor,
    outputs: Any,
    batch: Any,
    loss: Tensor,
    *,
    norm: Tensor | None,
) -> BlockSignals:
    with torch.no_grad():
        measurement = per_example_loss(
            objective.measurement(outputs, batch), name="measurement", examples=len(rows)
        )
        describe = getattr(objective, "describe", None)
        described = describe(outputs, batch) if describe else {}
    return BlockSignals(rows, loss.detach(), measurement, norm, described)
