"""How near scores are to other scores of the same pairs."""

import torch
from torch import Tensor


def pearson(one: Tensor, other: Tensor) -> float:
    """Return the correlation over all pairs, in float64; both are [Q, N].

    Raises:
        ValueError: If the shapes differ: the scores are not of the same pairs.
    """
    _require_same_pairs(one, other)
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return ‖found − expected‖ / ‖expected‖ over all pairs, in float64; both are [Q, N]."""
    _require_same_pairs(found, expected)
    expected = expected.double()
    return float((found.double() - expected).norm() / expected.norm())


def _require_same_pairs(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(
            f"Expected scores of the same pairs, got {list(one.shape)} and {list(other.shape)}. "
            "Were they computed from one workload's folder?"
        )
