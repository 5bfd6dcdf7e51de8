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
- Adam's coupled decay, RMSprop's and others' gives P(H + wI), Ĥ + wP, whose diagonal is taken in
  Ĥ's eigenbasis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sourcetrace.core.training.optimizer_settings import ADAPTIVE, DECOUPLED, OptimizerName

if TYPE_CHECKING:  # tensors bring their functions along: reading a method's name needs no torch
    from torch import Tensor

_TINY = 1.2e-38
"""Smallest normal number of float32."""

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
    ratio = -(-x).expm1() / x.masked_fill(flat, 1.0)
    return step_mass * ratio.masked_fill(flat, 1.0)


def propagation(eigenvalues: Tensor, *, step_mass: float) -> Tensor:
    """Return exp(-τσ), what a segment leaves of a change made before it.

    Source: Bae et al. 2024, propagation.
    """
    return (-step_mass * eigenvalues).exp()


@dataclass(frozen=True)
class SegmentFilter:
    """F_r and F_S of one segment, functions of its corrected eigenvalues.

    Attributes:
        response: F_r; the segment's own share of the score.
        propagation: F_S; what is handed to the segment before.
        uses_curvature: False where both are constants, so that no eigenbasis is needed.
        coupled_decay: w of weight decay that a preconditioner multiplies; propagation adds wP̄ to
            the eigenvalues.
        solve_damping: λ of the method's exact solve (G + λI) x = v, of the eigenvalues; None
            where the method solves nothing.
    """

    response: Callable[[Tensor], Tensor]
    propagation: Callable[[Tensor], Tensor]
    uses_curvature: bool
    coupled_decay: float = 0.0
    solve_damping: Callable[[Tensor], Tensor | float] | None = None

    @classmethod
    def constant(cls, mass: float) -> SegmentFilter:
        """Return F_r = `mass` and F_S = 1."""
        return cls(lambda sigma: mass * _ones(sigma), _ones, uses_curvature=False)


@dataclass(frozen=True)
class FilterSettings:
    """What a method makes a segment's filter of.

    Attributes:
        step_mass: τ of the segment.
        weight_decay: w.
        optimizer: Whose weight decay it is.
        damping: λ of influence functions; None for `INFLUENCE_DAMPING` of the mean eigenvalue.
    """

    step_mass: float
    weight_decay: float
    optimizer: OptimizerName = "SGD"
    damping: float | None = None

    def training(self) -> SegmentFilter:
        """Return Source's F_r and F_S."""
        mass = self.step_mass
        coupled = self.optimizer in ADAPTIVE and self.optimizer not in DECOUPLED
        shift = 0.0 if coupled else self.weight_decay
        return SegmentFilter(
            lambda sigma: segment_response(sigma + shift, step_mass=mass),
            lambda sigma: propagation(sigma + shift, step_mass=mass),
            uses_curvature=True,
            coupled_decay=self.weight_decay if coupled else 0.0,
        )

    def solved_training(self) -> SegmentFilter:
        """Return Source's filter with F_r(H) replaced by a solve with λ = 1/τ."""
        mass = self.step_mass
        found = self.training()
        shift = self.weight_decay - found.coupled_decay
        return replace(found, solve_damping=lambda _: 1 / mass + shift if mass else math.inf)

    def damped_inverse(self) -> SegmentFilter:
        """Return the influence function's 1 / (σ + λ)."""
        return SegmentFilter(
            lambda sigma: 1 / (sigma + self._damping(sigma)), _ones, uses_curvature=True
        )

    def solved_inverse(self) -> SegmentFilter:
        """Return the influence function's filter, replaced by a solve with the same λ."""
        return replace(self.damped_inverse(), solve_damping=self._damping)

    def _damping(self, eigenvalues: Tensor) -> float | Tensor:
        if self.damping is not None:
            return self.damping
        # A dead layer's eigenvalues are all 0; its gradients too, so any damping will do.
        return (INFLUENCE_DAMPING * eigenvalues.mean()).clamp(min=_TINY)


def _ones(eigenvalues: Tensor) -> Tensor:
    return eigenvalues.new_ones(eigenvalues.shape)
