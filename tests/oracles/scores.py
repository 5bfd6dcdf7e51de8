"""Scores from dense matrices: one row a gradient, one matrix a segment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.oracles.dense import matrix_propagation, matrix_response


@dataclass(frozen=True)
class DenseSegment:
    """One segment of training.

    Attributes:
        step_mass: τ.
        weight_decay: w, which shifts the curvature.
        curvature: H, [P, P].
        gradients: ḡ of every training example, 0 for those of another stage, [N, P].
        examples: N_stage.
    """

    step_mass: float
    weight_decay: float
    curvature: Tensor
    gradients: Tensor
    examples: int

    @property
    def decayed(self) -> Tensor:
        """H + wI."""
        return self.curvature + self.weight_decay * torch.eye(
            len(self.curvature), dtype=self.curvature.dtype
        )


def source_scores(queries: Tensor, segments: Sequence[DenseSegment]) -> Tensor:
    """Return ∇fᵀ S̄_L … S̄_{ℓ+1} r̄_ℓ(m) of every segment ℓ, [L, Q, N]; queries are [Q, P]."""
    return frame_scores(
        queries,
        segments,
        response=lambda segment: matrix_response(segment.decayed, segment.step_mass),
        propagation=lambda segment: matrix_propagation(segment.decayed, segment.step_mass),
    )


def frame_scores(
    queries: Tensor,
    segments: Sequence[DenseSegment],
    *,
    response: Callable[[DenseSegment], Tensor],
    propagation: Callable[[DenseSegment], Tensor],
) -> Tensor:
    """Return the scores of any method of the frame, its F_r and F_S given as matrices."""
    shares = []
    for number, segment in enumerate(segments):
        later = torch.eye(queries.shape[1], dtype=queries.dtype)
        for following in segments[number + 1 :]:
            later = propagation(following) @ later
        change = later @ response(segment) @ segment.gradients.T / segment.examples
        shares.append(queries @ change)
    return torch.stack(shares)
