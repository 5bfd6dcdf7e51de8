"""One forward pass of a batch and the backward passes that follow it.

Training examples: one backward pass with sampled labels and one with the given ones. Queries:
one of the measurement and one of the training loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import LayerTerms
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.engine.results import BlockSignals, QueryPasses, TrainingPasses
from sourcetrace.core.gradients.alone import LayerPositions, Single, positions_alone
from sourcetrace.core.gradients.capture import ForwardPass, per_example_loss
from sourcetrace.core.gradients.per_example import (
    LayerGradient,
    Positions,
    squared_norms,
)
from sourcetrace.core.gradients.sketches import sketches
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.layers.kinds.pixels import Pixels
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.nested import to_dtype
from sourcetrace.core.model.objective import ExampleGenerator, Objective, sampled_loss


@dataclass
class Passes:
    """Passes through the model so far, each counted by example.

    Attributes:
        forward: Forward passes.
        backward: Backward passes; those along many directions count once a direction.
    """

    forward: int = 0
    backward: int = 0

    def count(self, examples: int, *, backward: int) -> None:
        """Add one forward pass of some examples and the backward passes that follow it."""
        self.forward += examples
        self.backward += backward * examples


class _Drawn(NamedTuple):
    """One of an objective's losses, and which draw of it."""

    name: Literal["train_loss", "sampled_loss", "measurement"]
    draw: int = 0


@dataclass(frozen=True)
class Batch:
    """Collated examples, and what runs passes of them.

    Attributes:
        model: The model, in evaluation mode.
        objective: Forward pass and losses.
        layers: The attributed layers.
        items: The collated examples.
        rows: Their numbers, [n].
        alone: Place of one of them -> a collated batch of it alone, where a layer needs it.
        rounded: Whether the forward pass is autocast to bfloat16.
        sketched: Whether what the layers see is sketched.
    """

    model: nn.Module
    objective: Objective
    layers: Sequence[Layer]
    items: Any
    rows: Tensor
    alone: Callable[[int], Any]
    rounded: bool = False
    sketched: bool = False

    def training_passes(
        self, *, own: Tensor, seeds: Sequence[int], sampled: bool, draws: int = 1
    ) -> TrainingPasses:
        """Run the passes of training examples.

        Args:
            own: Which of them make up the curvature, [n].
            seeds: Of their sampled labels.
            sampled: Whether these labels' gradients are made up, and not their covariances alone.
            draws: How many sampled labels each example has in the covariances; the gradients
                are of the first.
        """
        drawn = [_Drawn("sampled_loss", draw) for draw in range(draws)]
        losses = [_Drawn("train_loss"), *drawn]
        alone, own_given, *own_sampled = self._alone(losses, seeds)
        captured, inputs = self._captured(alone)
        sampled_outputs = self._sampled_outputs(captured, drawn, own_sampled, seeds)
        loss = self._loss(_Drawn("train_loss"), captured.outputs)
        outputs = captured.output_gradients(loss, last=True) | own_given
        gradients = captured.gradients(inputs, outputs)
        sampled_gradients = captured.gradients(inputs, sampled_outputs[0]) if sampled else {}
        covariances = self._terms(inputs, sampled_outputs, captured.pixels(), own)
        norm = squared_norms(gradients).sqrt()
        signals = self._signals(captured.outputs, loss, norm=norm)
        finite = signals.finite & norm.isfinite() & _finite(sampled_outputs)
        signals = replace(signals, sketch=self._sketch(inputs), finite=finite)
        return TrainingPasses(signals, gradients, sampled_gradients, covariances)

    def covariances(self, seeds: Sequence[int], *, draws: int = 1) -> LayerTerms:
        """Run what adds to the covariances alone: a forward pass, and a backward pass a draw."""
        drawn = [_Drawn("sampled_loss", draw) for draw in range(draws)]
        alone, *own_sampled = self._alone(drawn, seeds)
        captured, inputs = self._captured(alone)
        outputs = self._sampled_outputs(captured, drawn, own_sampled, seeds)
        every = torch.ones(len(self.rows), dtype=torch.bool)
        return self._terms(inputs, outputs, captured.pixels(), every)

    def gradients(self, seeds: Sequence[int] | None, *, draw: int = 0) -> dict[str, LayerGradient]:
        """Run a forward and one backward pass, where the rest of `training_passes` is known.

        Args:
            seeds: Of sampled labels; None for the given ones.
            draw: Which of each example's sampled labels.
        """
        name = _Drawn("train_loss") if seeds is None else _Drawn("sampled_loss", draw)
        alone, own = self._alone((name,), seeds or ())
        captured, inputs = self._captured(alone)
        loss = self._loss(name, captured.outputs, seeds or ())
        return captured.gradients(inputs, captured.output_gradients(loss, last=True) | own)

    def query_passes(self) -> QueryPasses:
        """Run the passes of queries."""
        wanted = _Drawn("measurement"), _Drawn("train_loss")
        alone, own_measured, own = self._alone(wanted)
        captured, inputs = self._captured(alone)
        measurement, loss = (self._loss(one, captured.outputs) for one in wanted)
        measured = captured.output_gradients(measurement, last=False) | own_measured
        gradients = captured.gradients(inputs, measured)
        losses = captured.gradients(inputs, captured.output_gradients(loss, last=True) | own)
        return gradients, losses

    def by_token(self, length: int) -> tuple[LayerPositions, LayerPositions, LayerPositions]:
        """Run the passes of one training example whose positions are to be told apart.

        Args:
            length: Tokens of its sequence.

        Returns:
            Inputs and output gradients of the given labels' loss, and the token of each position.
        """
        captured = ForwardPass(self.model, self.layers, self._forward, examples=1, alone=True)
        loss = self._loss(_Drawn("train_loss"), captured.outputs)
        outputs = captured.output_gradients(loss, last=True)
        return captured.inputs(), outputs, captured.tokens(length)

    def signals(self) -> BlockSignals:
        """Measure the examples by a forward pass alone."""
        if self.sketched:
            captured, inputs = self._captured({})
            outputs, sketch = captured.outputs, self._sketch(inputs)
        with torch.no_grad():
            if not self.sketched:
                outputs, sketch = self._forward(), None
            signals = self._signals(outputs, self._loss(_Drawn("train_loss"), outputs), norm=None)
        return replace(signals, sketch=sketch)

    def _sketch(self, inputs: Mapping[str, Positions]) -> Tensor | None:
        return sketches(inputs, self.layers) if self.sketched else None

    def _alone(
        self, losses: Sequence[_Drawn], seeds: Sequence[int] = ()
    ) -> tuple[LayerPositions, ...]:
        """Return the inputs of layers that take passes of examples alone, and what each loss gives.

        These are output gradients, a loss each.
        """
        layers = [layer for layer in self.layers if layer.alone]
        if not layers:
            return ({}, *({} for _ in losses))

        def single(place: int) -> Single:
            here = slice(place, place + 1)
            one = replace(self, items=self.alone(place), rows=self.rows[here])
            return one._forward, lambda outputs: [
                one._loss(name, outputs, seeds[here]) for name in losses
            ]

        singles = map(single, range(len(self.rows)))
        inputs, gradients = positions_alone(self.model, layers, singles)
        return inputs, *gradients

    def _sampled_outputs(
        self,
        captured: ForwardPass,
        drawn: Sequence[_Drawn],
        alone: Sequence[LayerPositions],
        seeds: Sequence[int],
    ) -> list[dict[str, Positions]]:
        """Run a backward pass a draw; return output gradients, `alone` those of single passes."""
        return [
            captured.output_gradients(self._loss(one, captured.outputs, seeds), last=False) | own
            for one, own in zip(drawn, alone, strict=True)
        ]

    def _terms(
        self,
        inputs: Mapping[str, Positions],
        sampled_outputs: Sequence[Mapping[str, Positions]],
        pixels: Mapping[str, Pixels],
        own: Tensor,
    ) -> LayerTerms:
        """Return what some of the examples add to the covariances, a draw behind the other."""
        return {
            layer.name: [
                CovarianceTerms.of(
                    layer,
                    _own(inputs[layer.name], own),
                    _own(of_draw[layer.name], own),
                    pixels=_own(pixels.get(layer.name), own),
                )
                for of_draw in sampled_outputs
            ]
            for layer in self.layers
        }

    def _captured(self, alone: LayerPositions) -> tuple[ForwardPass, dict[str, Positions]]:
        """Run the forward pass; return it, and the inputs of the layers."""
        captured = ForwardPass(self.model, self.layers, self._forward, examples=len(self.rows))
        return captured, captured.inputs() | alone

    def _forward(self) -> Any:
        """Return the outputs, in the model's precision."""
        if not self.rounded:
            return self.objective.forward(self.model, self.items)
        like = next(p for p in self.model.parameters() if p.is_floating_point())
        with torch.autocast(like.device.type, torch.bfloat16):
            return to_dtype(self.objective.forward(self.model, self.items), like.dtype)

    def _loss(self, loss: _Drawn, outputs: Any, seeds: Sequence[int] = ()) -> Tensor:
        """Return one of the objective's losses, one value an example.

        Args:
            loss: Which one.
            outputs: Of the forward pass.
            seeds: Of sampled labels.
        """
        if loss.name == "sampled_loss":
            generator = ExampleGenerator.for_examples(seeds, draw=loss.draw)
            values = sampled_loss(self.objective, outputs, generator, self.items)
        else:
            values = getattr(self.objective, loss.name)(outputs, self.items)
        return per_example_loss(values, name=loss.name, examples=len(self.rows))

    def _signals(self, outputs: Any, loss: Tensor, *, norm: Tensor | None) -> BlockSignals:
        with torch.no_grad():
            measurement = self._loss(_Drawn("measurement"), outputs)
            describe = getattr(self.objective, "describe", None)
            described = describe(outputs, self.items) if describe else {}
        finite = loss.isfinite() & measurement.isfinite()
        return BlockSignals(self.rows, loss.detach(), measurement, norm, described, finite)


def _finite(sampled_outputs: Sequence[Mapping[str, Positions]]) -> Tensor:
    """Return whether an example's output gradients of every draw are finite, [n].

    The first layer's are looked at: what is not finite behind it goes through it.
    """
    firsts = (next(iter(of_draw.values())) for of_draw in sampled_outputs)
    sides = (one.embedding if isinstance(one, TiedPositions) else one for one in firsts)
    # A sum is not finite where one of its terms is not.
    return torch.stack([side.sum((1, 2, 3)) for side in sides]).isfinite().all(0)


_Side = TypeVar("_Side", Positions, Pixels | None)


def _own(positions: _Side, own: Tensor) -> _Side:
    """Return the rows in `own`; indexing would copy where it is all of them, the usual case."""
    return positions if positions is None or bool(own.all()) else positions[own]
