"""Linear layers: one block, any number of positions between example and features."""

from torch import nn

from sourcetrace.core.layers.kinds.types import LayerType, rows

LINEAR = LayerType(nn.Linear, rows, rows, feature_dimensions=lambda _: 1)

TRANSPOSED_LINEAR = LayerType(
    "transformers.pytorch_utils.Conv1D", rows, rows, transposed=True, feature_dimensions=lambda _: 1
)
"""GPT-2's own; a linear layer whose weight is [D_in, D_out]."""
