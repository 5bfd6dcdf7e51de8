"""The kinds of modules that can be attributed; `register` adds one."""

from sourcetrace.core.layers.kinds.bilinear import BILINEAR
from sourcetrace.core.layers.kinds.convolution import CONVOLUTIONS
from sourcetrace.core.layers.kinds.linear import EMBEDDING, LINEAR, TRANSPOSED_LINEAR
from sourcetrace.core.layers.kinds.normalisation import NORMALISATIONS
from sourcetrace.core.layers.kinds.transposed_convolution import TRANSPOSED_CONVOLUTIONS
from sourcetrace.core.layers.kinds.types import LayerType

LAYER_TYPES: list[LayerType] = [
    LINEAR,
    TRANSPOSED_LINEAR,
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    *NORMALISATIONS,
    EMBEDDING,
    BILINEAR,
]
"""All but attention, whose projections are no modules of their own."""


def register(kind: LayerType) -> None:
    """Attribute modules of another kind from now on, or replace how a known kind is laid out."""
    LAYER_TYPES[:] = [kind, *(known for known in LAYER_TYPES if known.module != kind.module)]
