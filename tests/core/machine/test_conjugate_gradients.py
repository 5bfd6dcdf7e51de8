"""Conjugate gradients for a block of right-hand sides, against a dense solve."""

import torch
from torch import Tensor

from sourcetrace.core.machine.conjugate_gradients import Vectors, conjugate_gradients
from tests.tiny import assert_close, seeded

SHAPES = {"first": (1, 2, 3), "second": (2, 1, 2)}
SIZE = 10


def system() -> tuple[Tensor, Tensor]:
    """Return a positive matrix [P, P] and right-hand sides [4, P]."""
    with seeded(11):
        root = torch.randn(SIZE, SIZE, dtype=torch.float64)
        return root @ root.T + 0.1 * torch.eye(SIZE).double(), torch.randn(4, SIZE).double()


def by_layer(rows: Tensor) -> dict[str, Tensor]:
    first, second = rows.split([6, 4], dim=1)
    return {
        "first": first.reshape(-1, *SHAPES["first"]),
        "second": second.reshape(-1, *SHAPES["second"]),
    }


def flat(vectors: Vectors) -> Tensor:
    return torch.cat([vectors[name].flatten(1) for name in SHAPES], dim=1)


def solve(
    matrix: Tensor, right: Tensor, *, tolerance: float, max_iterations: int = 50, report=None
):
    diagonal = matrix.diagonal()
    return conjugate_gradients(
        lambda vectors: by_layer(flat(vectors) @ matrix),
        lambda vectors: by_layer(flat(vectors) / diagonal),
        by_layer(right),
        tolerance=tolerance,
        max_iterations=max_iterations,
        report=report,
    )


def test_the_solution_is_the_dense_one():
    matrix, right = system()
    found = solve(matrix, right, tolerance=1e-13)
    assert_close(flat(found.values), torch.linalg.solve(matrix, right.T).T)
    assert bool((found.iterations <= 2 * SIZE).all())


def test_residuals_are_the_true_ones_and_within_the_tolerance():
    matrix, right = system()
    found = solve(matrix, right, tolerance=0.05)
    left = right - flat(found.values) @ matrix
    assert_close(found.residuals, left.norm(dim=1) / right.norm(dim=1), tolerance=1e-4)
    assert bool((found.residuals <= 0.05).all())


def test_a_right_hand_side_has_its_own_steps():
    """It is solved among others as it is alone, and a finished one is left alone."""
    matrix, right = system()
    right[1] = 0
    right[2] = 1e-6 * right[2]
    found = solve(matrix, right, tolerance=0.01)
    assert not flat(found.values)[1].any()
    assert found.iterations[1] == 0
    for row in (0, 2, 3):
        alone = solve(matrix, right[row : row + 1], tolerance=0.01)
        assert_close(flat(found.values)[row], flat(alone.values)[0])
        assert found.iterations[row] == alone.iterations[0]


def test_the_bound_stops_it_and_the_residual_says_so():
    matrix, right = system()
    seen = []
    found = solve(
        matrix,
        right,
        tolerance=1e-13,
        max_iterations=2,
        report=lambda number, residual: seen.append((number, residual)),
    )
    assert found.iterations.tolist() == [2] * 4
    assert [number for number, _ in seen] == [0, 1, 2]
    assert seen[-1][1] == float(found.residuals.max()) > 1e-3


def test_negative_curvature_stops_with_finite_values():
    matrix, right = system()
    found = solve(matrix - 3 * torch.eye(SIZE).double(), right, tolerance=1e-13)
    assert bool(flat(found.values).isfinite().all())
    assert bool((found.iterations < 50).all())
