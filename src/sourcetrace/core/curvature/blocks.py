"""EK-FAC curvature of a segment: shared eigenbases and corrected eigenvalues.

H ≈ (Q_G ⊗ Q_A) diag(Λ) (Q_G ⊗ Q_A)ᵀ for each layer, where A and G are averaged over the
segment's checkpoints and eigendecomposed once, in float64, and
Λ = E[(Q_Gᵀ ∇W Q_A)²] is a per-example mean of gradients with sampled labels, averaged over
the checkpoints.

Source: George et al. 2018 (EK-FAC); Bae et al. 2024, arXiv 2405.12186 (averages over a segment).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import scipy
import torch
from torch import Tensor

from sourcetrace.core.machine.products import both_sides

_LARGE = 1024
"""Rows from which on SciPy's LAPACK is faster on a CPU, by a third: divide and conquer. Its threads
and torch's wait for each other, which small matrices would feel."""

CUBES_OF_EIGENVECTORS = 9
"""Multiplications of the eigenvalues and eigenvectors of a symmetric n × n matrix, in units of n³.

Source: Golub and Van Loan, Matrix Computations, symmetric QR algorithm with vectors.
"""


@dataclass(frozen=True)
class EigenBasis:
    """Q_A [groups, D_in, D_in] and Q_G [groups, D_out, D_out], eigenvectors in columns.

    None stands for the identity: the eigenbasis of a diagonal covariance.
    """

    inputs: Tensor | None
    outputs: Tensor | None

    @classmethod
    def of(cls, activation: Tensor, pseudo_gradient: Tensor, *, dtype: torch.dtype) -> "EigenBasis":
        """Return the eigenvectors of A [groups, D_in, D_in] and G [groups, D_out, D_out].

        Decomposed in float64, because float32 loses the small eigenvalues' directions, and
        returned in `dtype`. A side given by its diagonal, [groups, D], has the identity, None.
        """
        return cls(_eigenvectors(activation, dtype), _eigenvectors(pseudo_gradient, dtype))

    def rotate(self, gradients: Tensor) -> Tensor:
        """Return Q_Gᵀ V Q_A of every V in [*, groups, D_out, D_in]."""
        found = both_sides(gradients.reshape(-1, *gradients.shape[-3:]), self.outputs, self.inputs)
        return found.reshape(gradients.shape)

    def rotate_back(self, rotated: Tensor) -> Tensor:
        """Return Q_G V Q_Aᵀ, the inverse of `rotate`."""
        return self.inverse().rotate(rotated)

    def inverse(self) -> "EigenBasis":
        """Return the basis whose `rotate` is this one's `rotate_back`."""
        return self._each(lambda one: one.mT)

    def into(self, other: "EigenBasis") -> "EigenBasis":
        """Return what takes coordinates in this basis to those in another."""
        return EigenBasis(
            _between(self.inputs, other.inputs), _between(self.outputs, other.outputs)
        )

    def squared(self) -> "EigenBasis":
        """Return the squared entries, which take a diagonal matrix to its rotated diagonal."""
        return self._each(Tensor.square)

    def to(self, device: torch.device) -> "EigenBasis":
        """Return the basis on another device."""
        return self._each(lambda one: one.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "EigenBasis":
        sides = (self.inputs, self.outputs)
        return EigenBasis(*(None if one is None else change(one) for one in sides))


@dataclass(frozen=True)
class CurvatureBlock:
    """One layer's EK-FAC matrix: its eigenbasis and corrected eigenvalues [groups, D_out, D_in].

    Attributes:
        basis: Q_A and Q_G.
        eigenvalues: Λ.
        preconditioner: P̄^½ of an adaptive optimiser, [groups, D_out, D_in]; the block is then
            that of Ĥ = P̄^½ H̄ P̄^½. None where steps follow the gradient itself.
    """

    basis: EigenBasis
    eigenvalues: Tensor
    preconditioner: Tensor | None = None

    def to(self, device: torch.device) -> "CurvatureBlock":
        """Return the block on another device."""
        root = None if self.preconditioner is None else self.preconditioner.to(device)
        return CurvatureBlock(self.basis.to(device), self.eigenvalues.to(device), root)

    def tensors(self) -> dict[str, Tensor]:
        """Return what makes up the block, by name; what is the identity or None is left out."""
        found = {
            "input_basis": self.basis.inputs,
            "output_basis": self.basis.outputs,
            "eigenvalues": self.eigenvalues,
            "preconditioner": self.preconditioner,
        }
        return {name: one for name, one in found.items() if one is not None}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "CurvatureBlock":
        """Rebuild the block from what `tensors` returned."""
        basis = EigenBasis(tensors.get("input_basis"), tensors.get("output_basis"))
        return cls(basis, tensors["eigenvalues"], tensors.get("preconditioner"))

    def scaled(self, factor: float) -> "CurvatureBlock":
        """Return the block of `factor` times the matrix."""
        return replace(self, eigenvalues=factor * self.eigenvalues)

    def decayed(self, coupled_decay: float) -> Tensor:
        """Return the eigenvalues of Ĥ + wP̄, P̄ by its diagonal in the eigenbasis.

        Args:
            coupled_decay: w, which a preconditioner multiplies as it does the gradient.
        """
        if not coupled_decay:
            return self.eigenvalues
        if self.preconditioner is None:
            return self.eigenvalues + coupled_decay
        diagonal = self.basis.squared().rotate(self.preconditioner.square())
        return self.eigenvalues + coupled_decay * diagonal

    def apply(self, function: Callable[[Tensor], Tensor], gradients: Tensor) -> Tensor:
        """Return f(H) V for every V in [*, groups, D_out, D_in]."""
        return self.basis.rotate_back(function(self.eigenvalues) * self.basis.rotate(gradients))


SegmentCurvature = Mapping[str, CurvatureBlock]
"""The blocks of every attributed layer, by layer name."""


def _between(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None:
        return other
    return one.mT if other is None else one.mT @ other


def _eigenvectors(covariance: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return eigenvectors in columns, by increasing eigenvalue; None of a diagonal.

    The largest entry of every one is positive, so that stored bases can be compared.
    """
    if covariance.ndim == 2:  # noqa: PLR2004, [groups, D]
        return None
    exact = covariance.double()
    if exact.device.type == "cpu" and exact.shape[-1] >= _LARGE:
        found = torch.stack(
            [torch.from_numpy(scipy.linalg.eigh(one, driver="evd")[1]) for one in exact.numpy()]
        )
    else:
        found = torch.linalg.eigh(exact)[1]
    largest = found.abs().argmax(dim=-2, keepdim=True)
    return (found * found.gather(-2, largest).sign()).to(dtype)
