"""Joining what a layer's calls saw into one tensor over all positions.

A position of padding is 0 on both sides and so adds nothing to any sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor


@dataclass(frozen=True)
class TiedPositions:
    """One side of a weight [V, D] that a linear output layer and an embedding share.

    The linear layer's gradient is Σ g aᵀ, with inputs a [N, 1, S, D] and output gradients g
    [N, 1, S, V]; the embedding's is Σ e gᵀ with one-hot e, kept as indices [N, S'], and
    output gradients [N, 1, S', D].

    Attributes:
        linear: The linear layer's inputs, or its output gradients.
        embedding: The embedding's indices, or its output gradients.
    """

    linear: Tensor
    embedding: Tensor

    def __len__(self) -> int:
        return self.linear.shape[0]

    def __getitem__(self, rows: Tensor) -> "TiedPositions":
        return TiedPositions(self.linear[rows], self.embedding[rows])


Positions = Tensor | TiedPositions
"""A layer's inputs or output gradients; indices [N, S] where all its inputs are one-hot."""


def join_positions(parts: Sequence[tuple[int, Tensor]], groups: int) -> Tensor:
    """Concatenate calls along their positions.

    Args:
        parts: The first group of each call and its values, [N, groups of the call, S, D].
        groups: Of the layer; [N, groups, S, D] is returned, S that of the longest group.
    """
    if all(values.shape[1] == groups for _, values in parts):
        return parts[0][1] if len(parts) == 1 else torch.cat([v for _, v in parts], dim=2)
    by_group = [
        torch.cat(
            [v[:, group - first] for first, v in parts if first <= group < first + v.shape[1]],
            dim=1,
        )
        for group in range(groups)
    ]
    longest = max(values.shape[1] for values in by_group)
    return torch.stack([F.pad(v, (0, 0, 0, longest - v.shape[1])) for v in by_group], dim=1)
