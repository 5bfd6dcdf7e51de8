"""nn.MultiheadAttention: projections that are no modules.

Its forward hands its weights to `torch.nn.functional.linear`, so each projection is recorded
where that function is called. Inside, sequences are [S, N, D], whatever `batch_first` says, as
they are inside recurrent modules: `Rehearsal` says that the second dimension counts examples.
A packed in_proj_weight is one layer of three groups, query, key and value; separate weights
are layers of their own, and their common in_proj_bias, [3 · D], is another.

While `attention_calls` is open, `linear` is replaced by one that notes calls whose weight lies in a
parameter of the attention module now running. It is put back when the context ends, also by an
error.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Size, Tensor, nn

from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.core.layers.layer import Call, Note, Offer, Site, Slot


def _sequences(_: nn.Module, values: Tensor) -> Tensor:
    """Lay out inputs [N, S, D] as [N, 1, S, D]."""
    return values.unsqueeze(1)


def _projections(module: nn.MultiheadAttention, gradients: Tensor) -> Tensor:
    """Lay out output gradients [N, S, groups · D_out] as [N, groups, S, D_out]."""
    split = gradients.reshape(*gradients.shape[:2], -1, module.embed_dim)
    return split.transpose(1, 2)


_PROJECTION = LayerType(nn.MultiheadAttention, _sequences, _projections)
"""One or several projections of a module; `Site.part` names them."""


def _projection_weights(module: nn.MultiheadAttention) -> dict[str, nn.Parameter]:
    """Return the weights of the projections that the module has."""
    parts = ("in_proj", "q_proj", "k_proj", "v_proj")
    found = {part: getattr(module, f"{part}_weight") for part in parts}
    found["out_proj"] = module.out_proj.weight
    return {part: weight for part, weight in found.items() if isinstance(weight, nn.Parameter)}


def attention_offer(name: str, module: nn.MultiheadAttention) -> Offer:
    """Return the slots of an attention module, its out_proj's included."""
    if module.bias_k is not None or module.add_zero_attn:
        return (
            "MultiheadAttention with add_bias_kv or add_zero_attn: it attends to more than its "
            "inputs"
        )
    if not isinstance(module.out_proj, nn.Linear):
        return f"MultiheadAttention with a {type(module.out_proj).__name__} inside"
    slots = []
    for part, weight in _projection_weights(module).items():
        groups = weight.shape[0] // module.embed_dim
        own = part in ("in_proj", "out_proj")
        slots.append(
            Slot(
                site=Site(name, _PROJECTION, part, 0 if own else "qkv".index(part[0])),
                weight=weight,
                groups=groups,
                outputs=module.embed_dim,
                inputs=weight.shape[1],
                bias=module.out_proj.bias if part == "out_proj" else module.in_proj_bias,
                bias_groups=groups if own else 3,
            )
        )
    return slots


@contextmanager
def attention_calls(model: nn.Module, sites: Collection[Site], note: Note) -> Iterator[None]:
    """Note the calls of attention's projections while the context is open."""
    parts: dict[nn.Module, dict[str, Site]] = {}
    for site in sites:
        if isinstance(module := model.get_submodule(site.module), nn.MultiheadAttention):
            parts.setdefault(module, {})[site.part] = site
    if not parts:
        yield
        return
    # A stack of modules and their numbers of examples: attention may lie inside attention.
    running: list[tuple[nn.MultiheadAttention, int]] = []
    handles = []
    linear = F.linear

    def start(
        module: nn.MultiheadAttention, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        query = arguments[0] if arguments else keywords["query"]
        batched = query.ndim == 3  # noqa: PLR2004, [S, N, D]; a single sequence is [S, D]
        running.append((module, query.shape[0 if module.batch_first else 1] if batched else 1))

    def stop(*_: object) -> None:
        running.pop()

    # The names of torch's own parameters, which callers may use.
    def noting(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        output = linear(input, weight, bias)
        if running:
            module, examples = running[-1]
            for part, whole in _projection_weights(module).items():
                row = _first_row(weight, whole) if part in parts[module] else None
                if row is not None:
                    key = parts[module][part].key
                    first, count = row // module.embed_dim, len(weight) // module.embed_dim
                    # The output projection sees its sequences flattened, [S · N, D].
                    values = input.reshape(-1, examples, input.shape[-1])
                    shape = Size((*values.shape[:2], output.shape[-1]))
                    groups = (first, first + count)
                    note(key, Call.of(key, values, output, output_shape=shape, groups=groups))
                    break
        return output

    try:
        for module in parts:
            handles.append(module.register_forward_pre_hook(start, with_kwargs=True))
            handles.append(module.register_forward_hook(stop, always_call=True))
        F.linear = noting
        yield
    finally:
        F.linear = linear
        for handle in handles:
            handle.remove()


def _first_row(part: Tensor, whole: Tensor) -> int | None:
    """Return the row of `whole` with which `part` begins; None if it lies elsewhere."""
    if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
        return None
    start = part.storage_offset() - whole.storage_offset()
    return start // whole.shape[1] if 0 <= start < whole.numel() else None
