"""The score: a query propagated back through the segments of training.

    score(q, m) = ∇f(z_q)ᵀ Σ_ℓ (S̄_L … S̄_{ℓ+1}) F_r(H̄_ℓ) ḡ_ℓ(m) / N_stage

From the last segment to the first, F_r(H̄_ℓ) v meets the training gradients of the segment,
then F_S(H̄_ℓ) v goes on to the segment before. The filters act on the queries only, so a
training gradient is used as it was captured. Where Adam trained, P̄^½ F_r(Ĥ) P̄^½ v and
P̄^−½ F_S(Ĥ) P̄^½ v take their places (`core.curvature.preconditioner`).

The sign is removal: the predicted change of the measurement when the example is removed.

Source: Bae et al. 2024, arXiv 2405.12186.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.plan.filters import SegmentFilter

Vectors = Tensor | FactoredGradient
"""Rows of one layer's gradients or responses, [Q, groups, D_out, D_in], or as low-rank sums."""

AT_ONCE = 256 * 2**20
"""Bound on the bytes of rows that are propagated together, unless that is one."""

_OUTPUTS = 4096
"""Outputs of a large layer that are filtered together."""

Response = Tensor | tuple[Vectors, Tensor]
"""What one layer's gradients meet: Q rows of the measurements and, last, that of the mean loss; or
both by themselves."""


def propagate(
    queries: Tensor | LayerGradient,
    filters: Sequence[SegmentFilter],
    blocks: Sequence[CurvatureBlock | None],
    examples: Sequence[int],
    *,
    behind: Tensor | None = None,
) -> list[Tensor]:
    """Return one layer's segment responses F_r(H̄_ℓ) v_ℓ / N_stage, first segment first.

    Of large layers some rows at a time, so that these responses are most of what is held.

    Args:
        queries: ∇f of the layer, [Q, groups, D_out, D_in], or kept as a sum.
        filters: F_r and F_S of every segment, in the order of training.
        blocks: The layer's curvature in every segment; None where the filter needs none.
        examples: N_stage of every segment.
        behind: More rows behind them, such as the mean loss's.
    """
    count = len(queries)
    total = count + (0 if behind is None else len(behind))
    widest = max((one.eigenvalues.nbytes for one in blocks if one is not None), default=1)
    starts = range(0, count, max(1, AT_ONCE // widest))
    responses: list[Tensor] = []
    for start in [*starts, *([] if behind is None else [count])]:
        rows = torch.arange(start, min(start + starts.step, count))
        if start == count and behind is not None:
            part: Tensor | LayerGradient = behind
        elif len(rows) == count:
            part = queries
        else:
            part = queries[rows] if isinstance(queries, Tensor) else queries.rows(rows)
        found = _propagated(part, filters, blocks, examples)
        if len(part) == total:
            return found
        if not responses:
            responses = [one.new_empty(total, *one.shape[1:]) for one in found]
        for whole, one in zip(responses, found, strict=True):
            whole[start : start + len(part)] = one
    return responses


def _propagated(
    queries: Tensor | LayerGradient,
    filters: Sequence[SegmentFilter],
    blocks: Sequence[CurvatureBlock | None],
    examples: Sequence[int],
) -> list[Tensor]:
    responses: list[Tensor] = []
    segments = list(zip(filters, blocks, examples, strict=True))
    for index, (segment_filter, block, count) in reversed(list(enumerate(segments))):
        step = SegmentStep(queries, segment_filter, block)
        responses.append(step.response() / count)
        if index:
            queries = step.propagated()
    return responses[::-1]


class SegmentStep:
    """One layer's queries v at a segment: rotated once, filtered twice.

    Args:
        queries: v, [Q, groups, D_out, D_in], or as sums, of which low-rank ones are cheaper to
            rotate.
        segment_filter: F_r and F_S of the segment.
        block: The layer's curvature; None where the filter needs none.
    """

    def __init__(
        self,
        queries: Tensor | LayerGradient,
        segment_filter: SegmentFilter,
        block: CurvatureBlock | None,
    ) -> None:
        self._filter = segment_filter
        self._block = block
        self._root = None if block is None else block.preconditioner
        if not isinstance(queries, Tensor):
            if isinstance(queries, FactoredGradient) and block is not None and self._root is None:
                queries = queries.rotated(block.basis.inputs, block.basis.outputs)
                self._rotated = queries.dense()
                self._eigenvalues = block.decayed(segment_filter.coupled_decay)
                return
            queries = queries.dense()
        if block is None:
            self._rotated, self._eigenvalues = queries, queries.new_ones(1)
        else:
            scaled = queries if self._root is None else self._root * queries
            self._rotated = block.basis.rotate(scaled)
            self._eigenvalues = block.decayed(segment_filter.coupled_decay)

    def response(self) -> Tensor:
        """Return F_r(H̄) v, what the segment's gradients meet."""
        response = self._filtered(self._filter.response)
        return response if self._root is None else self._root * response

    def propagated(self) -> Tensor:
        """Return F_S(H̄) v, for the segment before."""
        left = self._filtered(self._filter.propagation)
        return left if self._root is None else left / self._root

    def _filtered(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self._block is None or self._eigenvalues.nbytes <= AT_ONCE // 4:
            filtered = function(self._eigenvalues) * self._rotated
        else:  # a filter takes several times its size while it is made
            filtered = torch.empty_like(self._rotated)
            for outputs in torch.split(torch.arange(filtered.shape[-2]), _OUTPUTS):
                taken = slice(int(outputs[0]), int(outputs[-1]) + 1)
                part = function(self._eigenvalues[:, taken])
                filtered[..., taken, :] = part * self._rotated[..., taken, :]
        return filtered if self._block is None else self._block.basis.rotate_back(filtered)


def row_count(response: Response) -> int:
    """Return the rows of a layer's response, that of the mean loss among them."""
    return sum(map(len, response)) if isinstance(response, tuple) else len(response)


def products(gradient: LayerGradient, response: Response) -> Tensor:
    """Return what each row of a layer's response makes of each gradient, [rows, N]."""
    if isinstance(response, tuple):
        return torch.cat([gradient.products(part) for part in response])
    return gradient.products(response)


def summed_measurements(response: Response, dtype: torch.dtype) -> Tensor:
    """Return the sum of a response's rows but the last, the mean loss's: one row, dense."""
    measured = response[0] if isinstance(response, tuple) else response[:-1]
    if isinstance(measured, FactoredGradient):
        return measured.to(dtype).summed()
    return measured.sum(0, keepdim=True, dtype=dtype)
