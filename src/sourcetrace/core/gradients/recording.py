"""The calls of a model's layers, noted while it runs."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sourcetrace.core.layers.attention import attention_calls
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.kinds.types import second_run
from sourcetrace.core.layers.layer import Call, Note, Site
from sourcetrace.core.layers.recurrent import recurrent_calls


@contextmanager
def calls_noted(
    model: nn.Module, sites: Collection[Site], note: Note, examples: int | None
) -> Iterator[None]:
    """Note the calls at the sites while the context is open.

    Args:
        model: The model.
        sites: Where.
        note: Takes a site's key and a call.
        examples: N, where it is known: one sequence for all of them becomes N copies.
    """
    handles = []
    try:
        for site in sites:
            if not site.part:
                hook = _module_hook(site, note, examples)
                module = model.get_submodule(site.module)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        projections = [site for site in sites if site.part]
        with (
            without_fused_kernels(),
            attention_calls(model, projections, note),
            recurrent_calls(model, projections, note),
        ):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _module_hook(site: Site, note: Note, examples: int | None) -> Callable[..., Tensor | None]:
    dimension = site.example_dimension

    def repeated(values: Tensor, count: int) -> Tensor:
        """Repeat the dimension of examples, of size 1, without a copy."""
        return values.expand([count if d == dimension else -1 for d in range(values.ndim)])

    def record(
        module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Tensor
    ) -> Tensor | None:
        if site.kind.call is not None:
            with second_run():
                values, met, output = site.kind.call(
                    module, examples, output, *arguments, **keywords
                )
            note(site.key, Call.of(site.key, values, met))
            return output
        values = next(iter((*arguments, *keywords.values())))
        one_for_all = site.kind.indexed and values.ndim > 1 and values.shape[dimension] == 1
        if not one_for_all or examples is None or examples == 1:
            note(site.key, Call.of(site.key, values, output))
            return None
        output = repeated(output, examples)
        note(site.key, Call.of(site.key, repeated(values, examples), output))
        return output

    return record
