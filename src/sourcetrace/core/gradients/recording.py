"""What a forward pass leaves behind at the sites of the layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sourcetrace.core.layers.attention import Note, attention_calls, without_fused_kernels
from sourcetrace.core.layers.calls import Call, Recording
from sourcetrace.core.layers.layer import Layer, Site
from sourcetrace.core.layers.rehearsal import first_argument


@contextmanager
def recording(
    model: nn.Module, layers: Sequence[Layer], *, examples: int | None
) -> Iterator[Recording]:
    """Record the calls at the layers' sites while the context is open.

    Args:
        model: The model.
        layers: Whose sites are recorded.
        examples: N, where it is known: an embedding of one sequence for all examples, [1, S],
            then gives N copies of it, so that its gradient can be told by example.
    """
    calls: dict[str, list[Call]] = {}

    def note(key: str, call: Call) -> None:
        calls.setdefault(key, []).append(call)

    # By key: a layer's weight and its bias may be two layers at one site.
    sites = {site.key: site for layer in layers for site in layer.sites}
    handles = []
    try:
        for site in sites.values():
            if not site.part:
                module = model.get_submodule(site.module)
                hook = _module_hook(site, note, examples)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        projections = [site for site in sites.values() if site.part]
        with without_fused_kernels(), attention_calls(model, projections, note):
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _module_hook(site: Site, note: Note, examples: int | None) -> Callable[..., Tensor | None]:
    dimension = site.example_dimension

    def record(
        _: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Tensor
    ) -> Tensor | None:
        values = first_argument(arguments, keywords)
        one_for_all = site.kind.indexed and values.ndim > 1 and values.shape[dimension] == 1
        if not one_for_all or examples is None or examples == 1:
            note(site.key, Call.of(site.key, values, output))
            return None
        copies = _copies(output, dimension, examples)
        note(site.key, Call.of(site.key, _copies(values, dimension, examples), copies))
        return copies

    return record


def _copies(values: Tensor, dimension: int, count: int) -> Tensor:
    """Repeat a dimension of size 1, without a copy."""
    return values.expand([count if d == dimension else -1 for d in range(values.ndim)])
