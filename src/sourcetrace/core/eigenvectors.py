"""Eigenvectors of symmetric matrices, by the LAPACK that is fastest where they are.

On a CPU that is scipy's: its divide and conquer takes half to two thirds of the time of torch's
for matrices of some hundred rows and more. A GPU has torch's.
"""

import torch
from scipy.linalg import eigh
from torch import Tensor

from sourcetrace.core.multiplications import count_aside, eigendecomposition


def eigenvectors(matrices: Tensor) -> Tensor:
    """Return the eigenvectors of symmetric matrices, in columns, by increasing eigenvalue.

    Decomposed in float64, because float32 loses the small eigenvalues' directions. The largest
    entry of every eigenvector is positive, so that stored bases can be compared.

    Args:
        matrices: [groups, D, D].

    Returns:
        [groups, D, D] in float64.
    """
    exact = matrices.double()
    if exact.device.type == "cpu":
        count_aside(len(exact) * eigendecomposition(exact.shape[-1]))
        found = torch.stack([torch.from_numpy(eigh(one, driver="evd")[1]) for one in exact.numpy()])
    else:
        found = torch.linalg.eigh(exact)[1]
    largest = found.abs().argmax(dim=-2, keepdim=True)
    return found * found.gather(-2, largest).sign()
