"""Eigenvectors of symmetric matrices, by the LAPACK that is fastest for them.

For large ones on a CPU that is scipy's: its divide and conquer takes two thirds of the time of
torch's. Small ones stay with torch, because threads of both would wait for each other.
"""

import torch
from scipy.linalg import eigh
from torch import Tensor

_LARGE = 1024
"""Rows from which on scipy is faster in spite of torch's threads, which keep a core for a while."""


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
    if exact.device.type == "cpu" and exact.shape[-1] >= _LARGE:
        found = torch.stack([torch.from_numpy(eigh(one, driver="evd")[1]) for one in exact.numpy()])
    else:
        found = torch.linalg.eigh(exact)[1]
    largest = found.abs().argmax(dim=-2, keepdim=True)
    return found * found.gather(-2, largest).sign()


def eigendecomposition(size: int) -> int:
    """Return the multiplications of a symmetric matrix's eigenvalues and eigenvectors, about 9 n³.

    Source: Golub and Van Loan, Matrix Computations, symmetric QR algorithm with vectors.
    """
    return 9 * size**3
