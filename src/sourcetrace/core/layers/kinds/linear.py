"""Linear layers, and embeddings: linear layers whose inputs are one-hot.

Of one-hot inputs only the indices are kept. The activation covariance is exactly diagonal, the
frequencies of the tokens, and its eigenbasis the identity.
"""

from typing import Any

from torch import Tensor, nn

from sourcetrace.core.layers.kinds.types import LayerType


def rows(_: nn.Module, values: Tensor) -> Tensor:
    """Lay out [N, …, D] as [N, 1, S, D]."""
    return values.reshape(values.shape[0], 1, -1, values.shape[-1])


LINEAR = LayerType(nn.Linear, rows, rows, feature_dimensions=lambda _: 1)

TRANSPOSED_LINEAR = LayerType(
    "transformers.pytorch_utils.Conv1D",
    rows,
    rows,
    transposed=True,
    feature_dimensions=lambda _: 1,
)
"""GPT-2's own; a linear layer whose weight is [D_in, D_out]."""


def _indices(module: Any, values: Tensor) -> Tensor:
    """Return the indices as [N, S], -1 where the row is held fixed."""
    positions = values.reshape(values.shape[0], -1).long()
    if module.padding_idx is None:
        return positions
    return positions.masked_fill(positions == module.padding_idx, -1)


def embedding_refusal(module: Any) -> str:
    """Return why an embedding, or a bag of them, has another gradient."""
    name = type(module).__name__
    if module.max_norm is not None:
        return f"{name} with max_norm: its rows are rescaled in the forward pass"
    if module.scale_grad_by_freq:
        return f"{name} with scale_grad_by_freq: its gradient depends on the whole batch"
    if module.sparse:
        return f"{name} with sparse gradients: its optimiser leaves unseen rows alone"
    return ""


EMBEDDING = LayerType(
    nn.Embedding,
    _indices,
    rows,
    transposed=True,
    indexed=True,
    feature_dimensions=lambda _: 0,
    refusal=embedding_refusal,
)
