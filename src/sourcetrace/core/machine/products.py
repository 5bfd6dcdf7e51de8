"""Matrix products by the faster of torch's two libraries.

Torch multiplies float32 by MKL, whose kernels for AVX-512 are for Intel's processors alone: on
AMD's it runs at half the rate of oneDNN, which torch has for convolutions and compiled models. The
choice depends on processor and shapes only, so that the same run has the same numbers.
"""

from functools import cache

import torch
from torch import Tensor

_SMALL = 2**22
"""Multiplications below which the other call takes longer than it saves."""


def multiplied(one: Tensor, other: Tensor) -> Tensor:
    """Return one [M, K] times other [K, N]; nothing is differentiated through large ones."""
    large = one.numel() * other.shape[1] >= _SMALL
    floats = one.dtype == other.dtype == torch.float32 and one.device.type == "cpu"
    if not (large and floats and _onednn_is_faster()):
        return one @ other
    # It is slow with a left side that lies transposed, and very slow with a part of a matrix.
    if not other.T.is_contiguous():
        other = other.contiguous()
    with torch.no_grad():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            one.contiguous(), other.T, None, "none", [], ""
        )
    return found


def batch_product(one: Tensor, other: Tensor) -> Tensor:
    """Return one [groups, M, K] times other [groups, K, N]."""
    return multiplied(one[0], other[0]).unsqueeze(0) if len(one) == 1 else one @ other


def times_by_group(values: Tensor, matrices: Tensor) -> Tensor:
    """Return [N, groups, S, D] times [groups, D, K], as one product a group, not one an example."""
    examples, groups, terms, _ = values.shape
    rows = batch_product(values.transpose(0, 1).flatten(1, 2), matrices)
    return rows.reshape(groups, examples, terms, matrices.shape[2]).transpose(0, 1)


def both_sides(values: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    """Return outputsᵀ V inputs of every V in [N, groups, D_out, D_in]; None is the identity.

    As two large products, between which V is copied.

    Args:
        values: V.
        outputs: [groups, D_out, K].
        inputs: [groups, D_in, K'].
    """
    found = values if outputs is None else times_by_group(values.mT, outputs).mT
    return found.contiguous() if inputs is None else times_by_group(found, inputs)


@cache
def _onednn_is_faster() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # The operation is torch's own business: where another version has none, MKL will do.
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and there and capability.startswith("AVX512")
