"""Scores of a training sequence by token.

An example's gradient of a layer is Σ_s g_s a_sᵀ over the positions s at which its passes met the
layer, and its score ⟨R, Σ_s g_s a_sᵀ⟩ = Σ_s g_sᵀ R a_s falls apart over them. What every layer has
at the position of a token, all layers together, is the token's score: what the model computed
there, for its own prediction and for those of later positions. Positions that belong to no one
token (a pooled head, bare parameters, steps of a recurrent layer) are kept apart by layer. Both
together are the example's score.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.passes import Batch
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.indexed import sums_by_key
from sourcetrace.core.gradients.per_example import (
    Positions,
    per_example_gradient,
    squared_norms,
)
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.methods.score import SegmentResponses
from sourcetrace.core.model.examples import EvaluationPoint
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.responses.propagation import Response, products, row_count


@dataclass(frozen=True)
class TokenScores:
    """One training example's scores, in the order of the responses' rows.

    Attributes:
        tokens: Of each token, by segment, [segments, rows, T], float64.
        elsewhere: Layer -> the part of it that belongs to no one token, [segments, rows]; layers
            without such a part are left out.
    """

    tokens: Tensor
    elsewhere: Mapping[str, Tensor]

    @property
    def shares(self) -> Tensor:
        """Every segment's share of the example's score, [segments, rows]."""
        return self.tokens.sum(2) + sum(self.elsewhere.values())

    def __add__(self, other: "TokenScores") -> "TokenScores":
        """Return the scores by the layers of both."""
        return TokenScores(self.tokens + other.tokens, {**self.elsewhere, **other.elsewhere})


def token_scores(
    members: Sequence[SegmentResponses], engine: GradientEngine, lengths: Mapping[int, int]
) -> dict[int, TokenScores]:
    """Return the scores of some training examples by token, by the examples' numbers.

    Their passes are run anew, one example at a time, at every point of the segments.

    Args:
        members: The responses of an ensemble's members, one for an ordinary run; none where scores
            are no products with gradients, and have no parts.
        engine: The training examples and the model.
        lengths: Number of an example -> tokens of its sequence; 0 where it has none.
    """
    if not members:
        return {}
    segments = [
        (planned, responses)
        for one in members
        for planned, responses in zip(one.member.segments, one.responses, strict=True)
    ]
    layers = list(segments[0][1])
    rows = row_count(segments[0][1][layers[0]])
    totals = {
        number: torch.zeros(len(segments), len(layers), rows, length + 1, dtype=torch.float64)
        for number, length in lengths.items()
    }
    # Points outside, examples inside: weights are loaded once a point.
    visits: dict[str, tuple[EvaluationPoint, list[int]]] = {}
    for index, (planned, _) in enumerate(segments):
        for point in planned.points:
            visits.setdefault(point.id, (point, []))[1].append(index)
    for point, places in visits.values():
        for number, total in totals.items():
            inside = [one for one in places if number in segments[one][0].examples]
            passed = _passes(engine, point, number, lengths[number]) if inside else ()
            norm = _norm(engine, passed) if inside and engine.unit_norm else 1.0
            for place in inside:
                planned, responses = segments[place]
                weight = 1 / (norm * len(planned.points) * len(members))
                for index, name in enumerate(layers):
                    for use, response in _uses([one[name] for one in passed], responses[name]):
                        scored = weight * _by_token(use, response, lengths[number])
                        total[place, index] += scored.cpu().double()
    return {
        number: TokenScores(
            total[..., 1:].sum(1),
            {
                name: total[:, index, :, 0]
                for index, name in enumerate(layers)
                if bool(total[:, index, :, 0].any())
            },
        )
        for number, total in totals.items()
    }


def _passes(
    engine: GradientEngine, point: EvaluationPoint, number: int, length: int
) -> tuple[Mapping[str, Positions], ...]:
    """Return layer inputs, output gradients and tokens of one example."""

    def batch(_: int = 0) -> Any:
        return engine.training.batch([number], engine.device)

    one = Batch(
        engine.model_at(point),
        engine.objective,
        engine.coverage.layers,
        batch(),
        torch.tensor([number]),
        batch,
        engine.precision == "bfloat16",
    )
    with products_in(engine.precision, engine.device):
        return one.by_token(length)


def _norm(engine: GradientEngine, passed: Sequence[Mapping[str, Positions]]) -> float:
    """Return the norm of the example's gradient over all layers; 1 of none."""
    inputs, outputs, _ = passed
    gradients = {
        layer.name: per_example_gradient(
            inputs[layer.name], outputs[layer.name], width=layer.inputs
        )
        for layer in engine.coverage.layers
    }
    return float(squared_norms(gradients).sqrt()) or 1.0


def _uses(
    passed: Sequence[Positions], response: Response
) -> Iterator[tuple[Sequence[Tensor], Response]]:
    """Yield the positions of a layer and its response, of both uses where an embedding shares it.

    The embedding's weight is the other's transpose.
    """
    tied = [one for one in passed if isinstance(one, TiedPositions)]
    if not tied:
        yield [one for one in passed if isinstance(one, Tensor)], response
        return
    yield [one.linear for one in tied], response
    yield [one.embedding for one in tied], _transposed(response)


def _transposed(response: Response) -> Response:
    if isinstance(response, Tensor):
        return response.mT
    measured, mean_loss = response
    if isinstance(measured, Tensor):
        return measured.mT, mean_loss.mT
    return FactoredGradient(measured.output_gradients, measured.inputs), mean_loss.mT


def _by_token(positions: Sequence[Tensor], response: Response, length: int) -> Tensor:
    """Return what the positions of each token score, behind those of none, [rows, T + 1]."""
    inputs, output_gradients, tokens = positions
    total = output_gradients.new_zeros(row_count(response), length + 1)
    of_groups = tokens[0, :, :, 0].long()  # [groups, S]
    first = response[0] if isinstance(response, tuple) else response
    for row in torch.unique(of_groups, dim=0) if of_groups.numel() else ():
        # Projections of an attention may have positions of another sequence.
        own = (of_groups == row).all(1).reshape(1, -1, 1, 1)
        # A position a row: [S, groups, 1, D].
        apart = inputs.transpose(0, 2) if inputs.is_floating_point() else inputs.T
        outputs = (output_gradients * own).transpose(0, 2)
        gradient = per_example_gradient(apart, outputs, width=first.shape[-1])
        places, sums = sums_by_key(row, products(gradient, response).T)
        total[:, places] += sums.T
    return total
