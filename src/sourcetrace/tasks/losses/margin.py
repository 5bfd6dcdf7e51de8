"""The loss of a margin m = log p - log(1 - p): -(1 - p)^γ log p, the log loss where γ is 0.

For one logit z the margin of label 1 is z and that of label 0 is -z; for several it is the
logit minus the logsumexp of the others.

Source: Lin et al. 2017, arXiv 1708.02002, equation 4; derivatives *derived*.
"""

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor


def margin_loss(margins: Tensor, gamma: float) -> Tensor:
    """Return f(m), of any shape."""
    rest = torch.exp(gamma * F.logsigmoid(-margins)) if gamma else 1.0
    return -rest * F.logsigmoid(margins)


def margin_slope(margins: Tensor, gamma: float) -> Tensor:
    """Return -f'(m) = (1 - p)^(γ + 1) (1 + γ p t) ≥ 0, with t = -log p / (1 - p)."""
    p, rest = margins.sigmoid(), (-margins).sigmoid()
    return rest ** (gamma + 1) * (1 + gamma * p * _log_ratio(margins))


def margin_bend(margins: Tensor, gamma: float) -> Tensor:
    """Return f''(m) = p (1 - p)^(γ + 1) (2γ + 1 + γ t (γ p - 1 + p)), at least 0.

    With γ > 0 it is negative where the label's probability is small, below 0.06 with γ = 2.
    """
    p, rest = margins.sigmoid(), (-margins).sigmoid()
    bend = 2 * gamma + 1 + gamma * _log_ratio(margins) * (gamma * p - rest)
    return p * rest ** (gamma + 1) * bend.clamp_min(0)


def _log_ratio(margins: Tensor) -> Tensor:
    """Return -log p / (1 - p), which is 1 where p is."""
    rest = (-margins).sigmoid()
    flat = rest < torch.finfo(rest.dtype).tiny
    return torch.where(flat, 1.0, F.softplus(-margins) / rest.masked_fill(flat, 1.0))
