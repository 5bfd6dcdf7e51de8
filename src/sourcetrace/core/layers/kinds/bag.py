"""Bags of embeddings: an embedding whose rows an example sums, averages or takes the maximum of.

The rows are looked up once more and reduced here, so that autograd tells the gradient of each:
weights of examples, counts and maxima are in it.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sourcetrace.core.layers.kinds.linear import embedding_refusal, rows
from sourcetrace.core.layers.kinds.types import LayerType

_OF_MODULE = ("weight", "mode", "include_last_offset", "padding_idx")
"""Arguments of torch's function that a module keeps."""


def _by_example(values: Tensor, offsets: Tensor | None, last: bool, fill: float) -> Tensor:
    """Lay out what lies in one row by its bags, [N, S], padded; one bag at least has a place."""
    if offsets is None:
        return values
    places = [*offsets[1:].tolist(), *([] if last else [len(values)])]
    bags = values.tensor_split(places)[: len(places)]
    longest = max(1, *(len(bag) for bag in bags))
    padded = pad_sequence(list(bags), batch_first=True, padding_value=fill)
    return F.pad(padded, (0, longest - padded.shape[1]), value=fill)


def _reduced(
    weight: Tensor, tokens: Tensor, factors: Tensor | None, mode: str
) -> tuple[Tensor, Tensor]:
    """Return the rows of tokens, [N, S, D], and what the bags make of them, [N, D]."""
    without = (tokens < 0).unsqueeze(-1)
    looked_up = F.embedding(tokens.clamp(min=0), weight)
    if mode == "max":
        largest = looked_up.masked_fill(without, -torch.inf).max(1).values
        return looked_up, largest.masked_fill(without.all(1), 0)
    terms = looked_up.masked_fill(without, 0)
    if factors is not None:
        terms = terms * factors.unsqueeze(-1)
    total = terms.sum(1)
    return looked_up, total / (~without).sum(1).clamp(min=1) if mode == "mean" else total


def _bags(given: Mapping[str, Any], examples: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of every bag, [N, S], -1 for none, and what `_reduced` makes of them.

    Args:
        given: The arguments of torch's function.
        examples: How many there are, where one bag may serve all of them.
    """
    weight, offsets, last = given["weight"], given["offsets"], given["include_last_offset"]
    tokens = _by_example(given["input"], offsets, last, -1).long()
    if (padding := given["padding_idx"]) is not None:
        tokens = tokens.masked_fill(tokens == padding % len(weight), -1)
    if examples is not None and len(tokens) == 1:
        tokens = tokens.expand(examples, -1)
    factors = given["per_sample_weights"]
    if factors is not None:
        factors = _by_example(factors, offsets, last, 0)
    return tokens, *_reduced(weight, tokens, factors, given["mode"])


def _call(
    module: Any,
    examples: int | None,
    _: Tensor,
    input: Tensor,  # noqa: A002, the name of torch's own, which callers may use
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> tuple[Tensor, ...]:
    own = {name: getattr(module, name) for name in _OF_MODULE}
    of_call = {"input": input, "offsets": offsets, "per_sample_weights": per_sample_weights}
    return _bags(own | of_call, examples)


@contextmanager
def looked_up() -> Iterator[None]:
    """Have bags look up their rows: torch's own kernel cannot be differentiated twice."""
    kernel = F.embedding_bag
    signature = inspect.signature(kernel)

    def embedding_bag(*arguments: Any, **keywords: Any) -> Tensor:
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        given = bound.arguments
        if given["max_norm"] is not None or given["scale_grad_by_freq"] or given["sparse"]:
            return kernel(*arguments, **keywords)
        return _bags(given)[-1]

    # So that one inside another finds the arguments.
    vars(embedding_bag)["__signature__"] = signature
    try:
        F.embedding_bag = embedding_bag
        yield
    finally:
        F.embedding_bag = kernel


EMBEDDING_BAG = LayerType(
    nn.EmbeddingBag,
    lambda _, tokens: tokens,
    rows,
    transposed=True,
    indexed=True,
    refusal=embedding_refusal,
    call=_call,
)
