"""The projections of nn.MultiheadAttention, seen where it calls `torch.nn.functional.linear`.

While the context is open that function is replaced by one that notes calls whose weight lies
in a parameter of the attention module now running. It is put back when the context ends, also
by an error.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Size, Tensor, nn

from sourcetrace.core.layers.attention import projection_weights
from sourcetrace.core.layers.calls import Call, note_call
from sourcetrace.core.layers.layer import Site, join_names

Note = Callable[[str, Call], None]
"""Takes a site's key and a call of it."""


@contextmanager
def attention_calls(model: nn.Module, sites: Collection[Site], note: Note) -> Iterator[None]:
    """Note the calls of attention's projections while the context is open."""
    if not sites:
        yield
        return
    keys = {site.key for site in sites}
    running: list[_Running] = []  # a stack: attention may lie inside attention
    handles = []
    linear = F.linear

    def start(name: str) -> Callable[..., None]:
        def push(
            module: nn.MultiheadAttention, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
        ) -> None:
            query = arguments[0] if arguments else keywords["query"]
            running.append(_Running(name, module, query))

        return push

    def stop(*_: object) -> None:
        running.pop()

    # The names of torch's own parameters, which callers may use.
    def noting(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        output = linear(input, weight, bias)
        found = running[-1].call(input, weight, output, keys) if running else None
        if found is not None:
            note(*found)
        return output

    try:
        for name in {site.module for site in sites}:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(start(name), with_kwargs=True))
            handles.append(module.register_forward_hook(stop, always_call=True))
        F.linear = noting
        yield
    finally:
        F.linear = linear
        for handle in handles:
            handle.remove()


class _Running:
    """An attention module between the start and the end of its forward."""

    def __init__(self, name: str, module: nn.MultiheadAttention, query: Tensor) -> None:
        self._name = name
        self._weights = projection_weights(module)
        self._width = module.embed_dim
        self._examples = 1
        if query.ndim == 3:  # noqa: PLR2004, [S, N, D]; a single sequence is [S, D]
            self._examples = query.shape[0 if module.batch_first else 1]

    def call(
        self, values: Tensor, weight: Tensor, output: Tensor, keys: Collection[str]
    ) -> tuple[str, Call] | None:
        """Return the key and the call if `weight` is a wanted projection's, or a part of it."""
        for part, whole in self._weights.items():
            key = join_names(self._name, part)
            if key not in keys or not _lies_in(weight, whole):
                continue
            first = (weight.storage_offset() - whole.storage_offset()) // whole.shape[1]
            group = first // self._width
            # The output projection sees its sequences flattened, [S · N, D].
            shape = (-1, self._examples, values.shape[-1])
            call = note_call(
                key,
                values.reshape(shape),
                output,
                output_shape=Size((*shape[:2], output.shape[-1])),
                groups=(group, group + weight.shape[0] // self._width),
            )
            return key, call
        return None


def _lies_in(part: Tensor, whole: Tensor) -> bool:
    if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
        return False
    start = part.storage_offset() - whole.storage_offset()
    return 0 <= start < whole.numel()
