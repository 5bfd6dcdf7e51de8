"""Layers whose gradient is a sum of outer products, and the parameters that have none.

For a layer with inputs a_s and output gradients g_s at positions s, the gradient of the
weight is Σ_s g_s a_sᵀ. A layer type says how to lay out the two, [N, groups, S, D_in] and
[N, groups, S, D_out], the bias folded in as a column of ones. A new layer type is one
`LayerType` given to `register`.
"""

from sourcetrace.core.layers.kinds.registry import register
from sourcetrace.core.layers.kinds.types import LayerType

__all__ = ["LayerType", "register"]
