"""The functions of the curvature that turn a query into a score, one pair a method.

Every method scores ⟨F_r(H) v, ḡ(m)⟩ / N per segment and hands v' = F_S(H) v to the segment
before: Source, influence functions, TracIn and gradient similarity differ in F_r and F_S
alone.

ASTRA's methods solve with the exact Gauss–Newton matrix where F_r = 1/(σ + λ) would filter
(`core.methods.astra`); their F_r here is EK-FAC's, which self-influence uses.

Source: Bae et al. 2024, arXiv 2405.12186 (segment response and propagation); weight decay
enters as σ + w (derived; tests hold it against unrolled training):

- SGD's coupled decay adds wθ to the gradient, so that H becomes H + wI;
- AdamW's decoupled decay, θ ← (1 − ηw)θ − ηP ∇ℓ, gives exp(−τ(PH + wI)) and, with
  Ĥ = P^½HP^½ as in `core.curvature.preconditioner`, σ + w of Ĥ's eigenvalue σ;
- Adam's coupled decay gives P(H + wI), Ĥ + wP, whose diagonal is taken in Ĥ's eigenbasis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.plan.methods import Method
from sourcetrace.core.training.optimizer_settings import OptimizerName

INFLUENCE_DAMPING = 0.1
"""λ of the influence function, as a share of the mean corrected eigenvalue."""


def segment_response(eigenvalues: Tensor, *, step_mass: float) -> Tensor:
    """Return (1 - exp(-τσ)) / σ for every eigenvalue σ, and τ where σ = 0.

    Args:
        eigenvalues: Corrected eigenvalues, [groups, D_out, D_in], ≥ 0.
        step_mass: τ, the summed learning rates of the segment, > 0.

    Source: Bae et al. 2024, segment response.
    """
    x = step_mass * eigenvalues
    flat = x == 0
    # expm1: 1 - exp(-x) rounds to 0 for tiny x.
    ratio = -torch.expm1(-x) / x.masked_fill(flat, 1.0)
    return step_mass * ratio.masked_fill(flat, 1.0)


def propagation(eigenvalues: Tensor, *, step_mass: float) -> Tensor:
    """Return exp(-τσ), what a segment leaves of a change made before it.

    Source: Bae et al. 2024, propagation.
    """
    return torch.exp(-step_mass * eigenvalues)


@dataclass(frozen=True)
class SegmentFilter:
    """F_r and F_S of one segment, functions of its corrected eigenvalues.

    Attributes:
        response: F_r; the segment's own share of the score.
        propagation: F_S; what is handed to the segment before.
        uses_curvature: False where both are constants, so that no eigenbasis is needed.
        coupled_decay: w of weight decay that a preconditioner multiplies; the walk adds wP̄ to
            the eigenvalues.
        solve_damping: λ of the method's exact solve (G + λI) x = v, of the eigenvalues; None
            where the method solves nothing.
    """

    response: Callable[[Tensor], Tensor]
    propagation: Callable[[Tensor], Tensor]
    uses_curvature: bool
    coupled_decay: float = 0.0
    solve_damping: Callable[[Tensor], Tensor | float] | None = None


def follows_training(method: Method) -> bool:
    """Return whether a method's filters are those of the optimiser's steps, P̄ included.

    TracIn is the published sum of learning rate · ⟨∇f, ∇ℓ⟩, whatever the optimiser: a plain
    yardstick to compare with. The others know no training at all.
    """
    return method in ("source", "scaled_source", "fast_source", "astra_source")


def segment_filter(
    method: Method,
    *,
    step_mass: float,
    weight_decay: float,
    damping: float | None = None,
    optimizer: OptimizerName = "SGD",
) -> SegmentFilter:
    """Return the filter of one segment.

    Args:
        method: Name of the method.
        step_mass: τ of the segment.
        weight_decay: w; it shifts the curvature of `source`.
        damping: λ of `influence`; by default `INFLUENCE_DAMPING` of the mean eigenvalue.
        optimizer: Whose weight decay it is.
    """
    if follows_training(method):
        coupled = optimizer == "Adam"
        shift = 0.0 if coupled else weight_decay
        return SegmentFilter(
            lambda sigma: segment_response(sigma + shift, step_mass=step_mass),
            lambda sigma: propagation(sigma + shift, step_mass=step_mass),
            uses_curvature=True,
            coupled_decay=weight_decay if coupled else 0.0,
            solve_damping=(lambda _: 1 / step_mass + shift if step_mass else math.inf)
            if method == "astra_source"
            else None,
        )
    if method in ("influence", "astra_influence"):
        return SegmentFilter(
            lambda sigma: 1 / (sigma + _damping(sigma, damping)),
            torch.ones_like,
            uses_curvature=True,
            solve_damping=(lambda sigma: _damping(sigma, damping))
            if method == "astra_influence"
            else None,
        )
    mass = step_mass if method == "tracin" else 1.0
    return SegmentFilter(
        lambda sigma: torch.full_like(sigma, mass), torch.ones_like, uses_curvature=False
    )


def _damping(eigenvalues: Tensor, damping: float | None) -> float | Tensor:
    return (
        # A dead layer's eigenvalues are all 0; its gradients too, so any damping will do.
        (INFLUENCE_DAMPING * eigenvalues.mean()).clamp(min=torch.finfo(eigenvalues.dtype).tiny)
        if damping is None
        else damping
    )
