"""Bags of embeddings: an embedding whose rows an example sums, averages or takes the maximum of.

The rows are looked up once more and reduced here, so that autograd tells the gradient of each:
weights of examples, counts and maxima are in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sourcetrace.core.layers.kinds.linear import embedding_refusal, rows
from sourcetrace.core.layers.kinds.types import LayerType


def _by_example(values: Tensor, offsets: Tensor | None, last: bool, fill: float) -> Tensor:
    """Lay out what lies in one row by its bags, [N, S], padded; one bag at least has a place."""
    if offsets is None:
        return values
    ends = offsets[1:] if last else [*offsets[1:], len(values)]
    places = [int(end) for end in ends]
    bags = values.tensor_split(places)[: len(places)]
    longest = max(1, *(len(bag) for bag in bags))
    padded = pad_sequence(list(bags), batch_first=True, padding_value=fill)
    return F.pad(padded, (0, longest - padded.shape[1]), value=fill)


def _tokens(
    values: Tensor, offsets: Tensor | None, *, last: bool, padding_idx: int | None
) -> Tensor:
    """Return the tokens of every bag, [N, S], -1 for none."""
    tokens = _by_example(values, offsets, last, -1).long()
    return tokens if padding_idx is None else tokens.masked_fill(tokens == padding_idx, -1)


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


def _call(
    module: Any,
    examples: int | None,
    _: Tensor,
    input: Tensor,  # noqa: A002, the name of torch's own, which callers may use
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> tuple[Tensor, ...]:
    last = module.include_last_offset
    tokens = _tokens(input, offsets, last=last, padding_idx=module.padding_idx)
    if examples is not None and len(tokens) == 1:  # one bag for all of them
        tokens = tokens.expand(examples, -1)
    factors = per_sample_weights
    if factors is not None:
        factors = _by_example(factors, offsets, last, 0)
    return tokens, *_reduced(module.weight, tokens, factors, module.mode)


@contextmanager
def looked_up() -> Iterator[None]:
    """Have bags look up their rows: torch's own kernel cannot be differentiated twice."""
    kernel = F.embedding_bag

    # The names of torch's own parameters, which callers may use.
    def embedding_bag(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        offsets: Tensor | None = None,
        max_norm: float | None = None,
        norm_type: float = 2,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        per_sample_weights: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Tensor:
        others = (max_norm, norm_type, scale_grad_by_freq, mode, sparse)
        if max_norm is not None or scale_grad_by_freq or sparse:
            rest = (per_sample_weights, include_last_offset, padding_idx)
            return kernel(input, weight, offsets, *others, *rest)
        padding = None if padding_idx is None else padding_idx % len(weight)
        tokens = _tokens(input, offsets, last=include_last_offset, padding_idx=padding)
        factors = per_sample_weights
        if factors is not None:
            factors = _by_example(factors, offsets, include_last_offset, 0)
        return _reduced(weight, tokens, factors, mode)[1]

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
