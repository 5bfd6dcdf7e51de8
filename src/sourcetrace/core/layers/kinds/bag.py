"""Bags of embeddings: an embedding whose rows an example sums, averages or takes the maximum of.

The rows are looked up once more and reduced here, so that autograd tells the gradient of each:
weights of examples, counts and maxima are in it.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sourcetrace.core.layers.kinds.linear import embedding_refusal, indices, rows
from sourcetrace.core.layers.kinds.types import LayerType


def _by_example(module: Any, values: Tensor, offsets: Tensor | None, fill: float) -> Tensor:
    """Lay out what lies in one row by its bags, [N, S], padded; one bag at least has a place."""
    if offsets is None:
        return values
    ends = offsets[1:] if module.include_last_offset else [*offsets[1:], len(values)]
    places = [int(end) for end in ends]
    bags = values.tensor_split(places)[: len(places)]
    longest = max(1, *(len(bag) for bag in bags))
    padded = pad_sequence(list(bags), batch_first=True, padding_value=fill)
    return F.pad(padded, (0, longest - padded.shape[1]), value=fill)


def _call(
    module: Any,
    examples: int | None,
    _: Tensor,
    input: Tensor,  # noqa: A002, the name of torch's own, which callers may use
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> tuple[Tensor, ...]:
    tokens = indices(module, _by_example(module, input, offsets, -1))
    if examples is not None and len(tokens) == 1:  # one bag for all of them
        tokens = tokens.expand(examples, -1)
    without = (tokens < 0).unsqueeze(-1)
    looked_up = F.embedding(tokens.clamp(min=0), module.weight)
    if module.mode == "max":
        largest = looked_up.masked_fill(without, -torch.inf).max(1).values
        return tokens, looked_up, largest.masked_fill(without.all(1), 0)
    terms = looked_up.masked_fill(without, 0)
    if per_sample_weights is not None:
        terms = terms * _by_example(module, per_sample_weights, offsets, 0).unsqueeze(-1)
    total = terms.sum(1)
    if module.mode == "mean":
        total = total / (~without).sum(1).clamp(min=1)
    return tokens, looked_up, total


EMBEDDING_BAG = LayerType(
    nn.EmbeddingBag,
    lambda _, tokens: tokens,
    rows,
    transposed=True,
    indexed=True,
    refusal=embedding_refusal,
    call=_call,
)
