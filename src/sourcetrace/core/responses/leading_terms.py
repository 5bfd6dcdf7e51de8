"""The leading singular terms of many matrices at once, as left and right factors.

A random subspace, improved by a power iteration (Halko, Martinsson & Tropp 2011), by large
products alone. Orthonormal bases come from Gram matrices in float64: batched QR and singular
value decompositions, of which `torch.svd_lowrank` is made, are many times slower. The random start
is the same for all matrices and every run, and not the global generator's.
"""

import torch
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient

_OVERSAMPLING = 8


def shortest_sum(
    matrices: Tensor, length: int, longest: int, *, tolerance: float, fewest: int = 1
) -> tuple[Tensor, Tensor] | None:
    """Return left and right factors, [*, groups, R, D], of as few terms as every row needs.

    Args:
        matrices: [*, groups, D_out, D_in]; the groups of one row are measured together.
        length: Terms to try first; twice as many next, and so on.
        longest: Bound on the terms; None is returned if they are not enough, or are fewer than
            `fewest`.
        tolerance: Of the norm of what is left out of a row, relative to that row.
        fewest: Terms to return, even where fewer would do.
    """
    rank = min(matrices.shape[-2:])
    if longest < min(fewest, rank):
        return None
    longest = min(longest, rank)
    length = min(length, longest)
    total = _squares(matrices)
    while True:
        left, right = leading_terms(matrices, length)
        # Terms come in the order of their size, in every group; the right ones carry it. What
        # is left out is summed up: as a difference it would be lost in rounding.
        sizes = right.double().square().sum((-3, -1))
        behind = sizes.flip(-1).cumsum(-1).flip(-1) - sizes
        left_out = behind + _squares(matrices - left.mT @ right).unsqueeze(-1)
        enough = (left_out <= tolerance**2 * total.unsqueeze(-1)).to(torch.uint8)
        if bool(enough[..., -1].all()):
            terms = max(fewest, int(enough.argmax(-1).max()) + 1)
            return left[..., :terms, :], right[..., :terms, :]
        if length == longest:
            return None
        length = min(2 * length, longest)


def leading_terms(
    matrices: Tensor | FactoredGradient, count: int, *, improved: bool = True
) -> tuple[Tensor, Tensor]:
    """Return left [*, count, D_out] and right factors [*, count, D_in], the largest first.

    The left ones are orthonormal; the right ones carry the singular values.

    Args:
        matrices: [*, D_out, D_in], or low-rank sums.
        count: Terms; no more are returned than a matrix has rows or columns.
        improved: Whether a power iteration follows; without it half the work remains, and what
            is left out is some times larger.
    """
    if isinstance(matrices, FactoredGradient):
        reference = matrices.inputs
        smaller = min(matrices.shape[1:])
    else:
        reference = matrices
        smaller = min(matrices.shape[-2:])
    width = min(count + _OVERSAMPLING, smaller)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(reference.shape[-1], width, generator=generator, dtype=torch.float64)
    basis = _orthonormal(_times(matrices, start.to(reference)))
    if improved:
        basis = _orthonormal(_times(matrices, _orthonormal(_transposed_times(matrices, basis))))
    projected = _transposed_times(matrices, basis).mT
    squares = projected.double() @ projected.double().mT
    turn = torch.linalg.eigh(squares)[1].flip(-1)[..., :count].to(reference.dtype)
    return (basis @ turn).mT, turn.mT @ projected


def _times(matrices: Tensor | FactoredGradient, columns: Tensor) -> Tensor:
    if isinstance(matrices, FactoredGradient):
        return matrices.output_gradients.mT @ (matrices.inputs @ columns)
    return matrices @ columns


def _transposed_times(matrices: Tensor | FactoredGradient, columns: Tensor) -> Tensor:
    if isinstance(matrices, FactoredGradient):
        return matrices.inputs.mT @ (matrices.output_gradients @ columns)
    return matrices.mT @ columns


def _orthonormal(columns: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns, [*, D, k]; 0 for those that depend on others.

    By their Gram matrix in float64: batched QR decompositions are many times slower.
    """
    exact = columns.double()
    gram = exact.mT @ exact
    # The shift keeps it positive definite: a column that depends on others, or is 0, ends as 0.
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    shift = (1e-14 * trace).clamp_min(torch.finfo(gram.dtype).tiny)
    gram.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    factor = torch.linalg.cholesky(gram)
    basis: Tensor = torch.linalg.solve_triangular(factor.mT, exact, upper=True, left=False)
    return basis.to(columns.dtype)


def _squares(matrices: Tensor) -> Tensor:
    """Return the squared norm of every row, over its groups."""
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-3, -2, -1))
    return norms.double().square()
