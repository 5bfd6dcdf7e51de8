"""nn.MultiheadAttention: projections that are no modules.

Its forward hands its weights to `torch.nn.functional.linear`, so each projection is recorded
where that function is called. Inside, sequences are [S, N, D], whatever `batch_first` says.
A packed in_proj_weight is one layer of three groups, query, key and value; separate weights
are layers of their own, and their common in_proj_bias, [3 · D], is another.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.core.layers.layer import Site, join_names
from sourcetrace.core.layers.slots import Offer, Slot

PROJECTIONS = ("in_proj", "q_proj", "k_proj", "v_proj", "out_proj")


def _sequences(_: nn.Module, values: Tensor) -> Tensor:
    """Lay out inputs [S, N, D] as [N, 1, S, D]."""
    return values.transpose(0, 1).unsqueeze(1)


def _projections(module: nn.MultiheadAttention, gradients: Tensor) -> Tensor:
    """Lay out output gradients [S, N, groups · D_out] as [N, groups, S, D_out]."""
    positions, examples = gradients.shape[:2]
    split = gradients.reshape(positions, examples, -1, module.embed_dim)
    return split.permute(1, 2, 0, 3)


PROJECTION = LayerType(nn.MultiheadAttention, _sequences, _projections)
"""One or several projections of a module; `Site.part` names them."""


def projection_weights(module: nn.MultiheadAttention) -> dict[str, nn.Parameter]:
    """Return the weights by projection, of `PROJECTIONS` those that the module has."""
    found = {
        "in_proj": module.in_proj_weight,
        "q_proj": module.q_proj_weight,
        "k_proj": module.k_proj_weight,
        "v_proj": module.v_proj_weight,
        "out_proj": module.out_proj.weight,
    }
    return {part: weight for part, weight in found.items() if isinstance(weight, nn.Parameter)}


def attention_offer(name: str, module: nn.MultiheadAttention) -> Offer:
    """Return the slots of an attention module, its out_proj's included."""
    if module.bias_k is not None or module.add_zero_attn:
        return Offer(
            reason="MultiheadAttention with add_bias_kv or add_zero_attn: it attends to more "
            "than its inputs"
        )
    if not isinstance(module.out_proj, nn.Linear):
        return Offer(reason=f"MultiheadAttention with a {type(module.out_proj).__name__} inside")
    slots = []
    for part, weight in projection_weights(module).items():
        groups = weight.shape[0] // module.embed_dim
        own = part in ("in_proj", "out_proj")
        bias = module.out_proj.bias if part == "out_proj" else module.in_proj_bias
        slots.append(
            Slot(
                name=join_names(name, part),
                site=Site(name, PROJECTION, part, 0 if own else "qkv".index(part[0])),
                weight=weight,
                groups=groups,
                outputs=module.embed_dim,
                inputs=weight.shape[1],
                transposed=False,
                bias=bias,
                bias_groups=groups if own else 3,
            )
        )
    return Offer(tuple(slots))


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Keep attention, and encoders of frozen layers, off the fused kernels of inference.

    Those call no modules and no linear function, and encoders pack padded sequences for them.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
