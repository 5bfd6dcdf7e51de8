"""The score: a query walked back through the segments of training.

    score(q, m) = ∇f(z_q)ᵀ Σ_ℓ (S̄_L … S̄_{ℓ+1}) F_r(H̄_ℓ) ḡ_ℓ(m) / N_stage

From the last segment to the first, F_r(H̄_ℓ) v meets the training gradients of the segment,
then F_S(H̄_ℓ) v goes on to the segment before. The filters act on the queries only, so a
training gradient is used as it was captured. Where Adam trained, P̄^½ F_r(Ĥ) P̄^½ v and
P̄^−½ F_S(Ĥ) P̄^½ v take their places (`core.preconditioner`).

The sign is removal: the predicted change of the measurement when the example is removed.

Source: Bae et al. 2024, arXiv 2405.12186.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from sourcetrace.core.curvature import CurvatureBlock
from sourcetrace.core.filters import SegmentFilter
from sourcetrace.core.gradients import Gradients


def walk(
    queries: Tensor,
    filters: Sequence[SegmentFilter],
    blocks: Sequence[CurvatureBlock | None],
    examples: Sequence[int],
) -> list[Tensor]:
    """Return one layer's segment responses F_r(H̄_ℓ) v_ℓ / N_stage, first segment first.

    Args:
        queries: ∇f of the layer, [Q, groups, D_out, D_in].
        filters: F_r and F_S of every segment, in the order of training.
        blocks: The layer's curvature in every segment; None where the filter needs none.
        examples: N_stage of every segment.
    """
    responses: list[Tensor] = []
    segments = list(zip(filters, blocks, examples, strict=True))
    for index, (segment_filter, block, count) in reversed(list(enumerate(segments))):
        if block is None:
            one = queries.new_ones(1)
            responses.append(queries * (segment_filter.response(one) / count))
            queries = queries * segment_filter.propagation(one)
            continue
        root = block.preconditioner
        rotated = block.basis.rotate(queries if root is None else root * queries)
        eigenvalues = block.decayed(segment_filter.coupled_decay)
        response = segment_filter.response(eigenvalues) / count
        responded = block.basis.rotate_back(response * rotated)
        responses.append(responded if root is None else root * responded)
        if index:
            queries = block.basis.rotate_back(segment_filter.propagation(eigenvalues) * rotated)
            queries = queries if root is None else queries / root
    return responses[::-1]


def segment_scores(responses: Mapping[str, Tensor], gradients: Sequence[Gradients]) -> Tensor:
    """Return a segment's share of the scores, [Q, N].

    Args:
        responses: The segment's responses by layer, [Q, groups, D_out, D_in].
        gradients: The examples' training gradients at each checkpoint of the segment; their
            mean is ḡ_ℓ.
    """
    return _mean(
        len(gradients),
        (
            checkpoint[name].products(response)
            for checkpoint in gradients
            # The responses' order: a cache may return the layers in another, and sums of
            # floats in another order differ in their last bits.
            for name, response in responses.items()
        ),
    )


def paired_segment_scores(
    responses: Mapping[str, Tensor], gradients: Sequence[Gradients]
) -> Tensor:
    """Return a segment's share of the scores of example n for query n, [N].

    Args:
        responses: The segment's responses by layer, one query an example.
        gradients: The examples' training gradients at each checkpoint of the segment.
    """
    return _mean(
        len(gradients),
        (
            checkpoint[name].paired_products(response)
            for checkpoint in gradients
            for name, response in responses.items()
        ),
    )


def _mean(checkpoints: int, products: Iterable[Tensor]) -> Tensor:
    """Sum the layers' products one by one and divide by the number of checkpoints."""
    return reduce(torch.add, products) / checkpoints
