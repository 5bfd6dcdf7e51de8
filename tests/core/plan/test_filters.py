"""F_r and F_S as functions of one eigenvalue."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sourcetrace.core.plan.filters import (
    INFLUENCE_DAMPING,
    SegmentFilter,
    propagation,
    segment_response,
)
from tests.oracles.dense import matrix_propagation, matrix_response
from tests.tiny import assert_close, seeded, segment_filter


def singular_matrix() -> Tensor:
    """Rank 2 in four dimensions."""
    with seeded(21):
        root = torch.randn(4, 2, dtype=torch.float64)
    return root @ root.T


def on_matrix(function, matrix: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    # The decomposition leaves rounding errors where the eigenvalue is 0.
    eigenvalues = eigenvalues.where(eigenvalues > 1e-12, 0.0)
    return vectors @ torch.diag(function(eigenvalues)) @ vectors.T


@pytest.mark.parametrize("step_mass", [1e-6, 0.3, 5.0])
def test_the_response_equals_the_integral_of_the_propagation(step_mass):
    matrix = singular_matrix()
    found = on_matrix(lambda sigma: segment_response(sigma, step_mass=step_mass), matrix)
    assert_close(found, matrix_response(matrix, step_mass))


@pytest.mark.parametrize("step_mass", [1e-6, 0.3, 5.0])
def test_the_propagation_equals_the_matrix_exponential(step_mass):
    matrix = singular_matrix()
    found = on_matrix(lambda sigma: propagation(sigma, step_mass=step_mass), matrix)
    assert_close(found, matrix_propagation(matrix, step_mass))


def test_the_response_is_the_step_mass_where_the_curvature_is_flat():
    response = segment_response(torch.zeros(3, dtype=torch.float64), step_mass=0.7)
    assert response.tolist() == [0.7] * 3


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    st.floats(0, 1e6, allow_subnormal=True),
    st.floats(1e-6, 1e3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_response_is_finite_and_between_its_bounds(sigma, step_mass, dtype):
    """(1 - exp(-x)) / x lies between 1 / (1 + x) and 1, for x = τσ."""
    response = segment_response(torch.tensor([sigma], dtype=dtype), step_mass=step_mass).item()
    slack = 4 * torch.finfo(dtype).eps
    assert response <= step_mass * (1 + slack)
    assert response >= step_mass / (1 + step_mass * sigma) * (1 - slack)


def test_the_response_keeps_its_digits_at_tiny_eigenvalues():
    sigma, step_mass = 1e-12, 0.5
    response = segment_response(torch.tensor([sigma], dtype=torch.float64), step_mass=step_mass)
    # Two terms of the series; the third is below float64's rounding.
    assert response.item() == pytest.approx(step_mass - step_mass**2 * sigma / 2, rel=1e-15)


@pytest.mark.parametrize("method", ["source", "fast_source"])
def test_source_filters_are_the_closed_forms_of_the_decayed_eigenvalue(method):
    """Weight decay shifts the eigenvalue in both filters."""
    sigma = torch.tensor([0.0, 0.4, 3.0], dtype=torch.float64)
    chosen = segment_filter(method, step_mass=2.0, weight_decay=0.1)
    assert chosen.uses_curvature
    assert_close(chosen.propagation(sigma), torch.exp(-2.0 * (sigma + 0.1)))
    assert_close(chosen.response(sigma), (1 - torch.exp(-2.0 * (sigma + 0.1))) / (sigma + 0.1))


def test_source_splits_a_segment_without_a_change():
    """Two segments of equal curvature respond as one of their joint step mass."""
    sigma = torch.tensor([0.0, 0.4, 3.0], dtype=torch.float64)

    def pair(step_mass: float) -> SegmentFilter:
        return segment_filter("source", step_mass=step_mass, weight_decay=0.2)

    whole, first, second = pair(3.0), pair(1.0), pair(2.0)
    assert_close(
        first.response(sigma) * second.propagation(sigma) + second.response(sigma),
        whole.response(sigma),
    )
    assert_close(first.propagation(sigma) * second.propagation(sigma), whole.propagation(sigma))


def test_influence_takes_a_tenth_of_the_mean_eigenvalue_unless_told():
    sigma = torch.tensor([[0.0, 1.0], [2.0, 5.0]], dtype=torch.float64)
    by_default = segment_filter("influence", step_mass=9.0, weight_decay=9.0)
    assert INFLUENCE_DAMPING == 0.1
    assert_close(by_default.response(sigma), 1 / (sigma + 0.2))
    assert by_default.uses_curvature
    told = segment_filter("influence", step_mass=9.0, weight_decay=9.0, damping=0.5)
    assert_close(told.response(sigma), 1 / (sigma + 0.5))


@pytest.mark.parametrize(("method", "expected"), [("tracin", 0.7), ("gradient_similarity", 1.0)])
def test_the_methods_without_curvature_have_constant_filters(method, expected):
    chosen = segment_filter(method, step_mass=0.7, weight_decay=9.0)
    sigma = torch.tensor([0.0, 5.0], dtype=torch.float64)
    assert not chosen.uses_curvature
    assert chosen.response(sigma).tolist() == [expected] * 2
    assert chosen.propagation(sigma).tolist() == [1.0, 1.0]
