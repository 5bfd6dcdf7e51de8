"""A point of training at which gradients are taken, and of which examples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.model.examples import Block


@dataclass(frozen=True)
class EvaluationPoint:
    """Weights at which gradients are taken: a checkpoint, or the mean of several.

    Attributes:
        id: Unique name.
        checkpoints: Ids whose weights are averaged.
        examples: Training examples whose gradients are needed here, increasing, [n].
        curvature_examples: Those whose stage it is; they make up the curvature, [n'].
        draws: Names what is drawn here, such as sampled labels; the id, unless said otherwise.
        dropout_mask: Number of the fixed dropout mask that thins the model; 0 for none.
    """

    id: str
    checkpoints: tuple[str, ...]
    examples: Tensor
    curvature_examples: Tensor
    draws: str = ""
    dropout_mask: int = 0

    def rows(self, block: Block) -> Tensor:
        """Return the numbers of the needed examples that lie in `block`."""
        return block.among(self.examples)

    def key(self, block: Block) -> str:
        """Return the name of a block at this point."""
        return f"{self.id}/{block.start}-{block.stop}"

    def in_stage(self, rows: Tensor) -> Tensor:
        """Return which of some examples' numbers are of the point's stage, [n] bool."""
        if not len(self.curvature_examples):
            return torch.zeros(len(rows), dtype=torch.bool)
        # A search in what is sorted: comparing with all examples would be quadratic in them.
        found = torch.searchsorted(self.curvature_examples, rows)
        last = len(self.curvature_examples) - 1
        return self.curvature_examples[found.clamp_max(last)] == rows
