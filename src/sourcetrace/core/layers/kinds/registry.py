"""The kinds of modules that can be attributed; `register` adds one."""

from torch import nn

from sourcetrace.core.layers.kinds.bag import EMBEDDING_BAG
from sourcetrace.core.layers.kinds.bilinear import BILINEAR
from sourcetrace.core.layers.kinds.convolution import CONVOLUTIONS
from sourcetrace.core.layers.kinds.elementwise import PRELU
from sourcetrace.core.layers.kinds.linear import EMBEDDING, LINEAR, TRANSPOSED_LINEAR
from sourcetrace.core.layers.kinds.normalisation import NORMALISATIONS
from sourcetrace.core.layers.kinds.transposed_convolution import TRANSPOSED_CONVOLUTIONS
from sourcetrace.core.layers.kinds.types import LayerType, overridden

LAYER_TYPES: list[LayerType] = [
    LINEAR,
    TRANSPOSED_LINEAR,
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    *NORMALISATIONS,
    PRELU,
    EMBEDDING,
    EMBEDDING_BAG,
    BILINEAR,
]
"""All but attention, whose projections are no modules of their own."""


def register(kind: LayerType) -> None:
    """Attribute modules of another kind from now on, or replace how a known kind is laid out."""
    LAYER_TYPES[:] = [kind, *(known for known in LAYER_TYPES if known.module != kind.module)]


def kind_of(module: nn.Module) -> LayerType | None:
    """Return the kind of a module, its own class's before a parent's; None for unknown ones."""
    fitting = [kind for kind in LAYER_TYPES if kind.fits(module)]
    exact = (kind for kind in fitting if kind.module is type(module))
    return next(exact, fitting[0] if fitting else None)


def unknown(module: nn.Module) -> str:
    """Return why a module with parameters of its own has none that its kind knows."""
    name = type(module).__name__
    if kind_of(module) is not None:
        own = ", ".join(key for key, _ in module.named_parameters(recurse=False))
        return (
            f"{name} whose own parameters are {own}: expected a weight, and perhaps a bias, which "
            "weight_norm, spectral_norm and pruning of torch.nn.utils make of other parameters"
        )
    for kind in LAYER_TYPES:
        if isinstance(kind.module, type) and isinstance(module, kind.module):
            names = ", ".join(overridden(type(module), kind.module))
            return (
                f"{name} has its own {names}: it may compute something else than "
                f"{kind.module.__name__}"
            )
    return f"{name} is not supported"
