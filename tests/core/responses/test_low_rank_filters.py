"""Low-rank sums against singular value decompositions, in the norm that counts."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.plan.filters import segment_response
from sourcetrace.core.responses.leading_terms import leading_terms, shortest_sum
from sourcetrace.core.responses.low_rank_filters import (
    FilterSum,
    Weights,
    filtered_sums,
)
from tests.tiny import assert_close, seeded

OUTPUTS, INPUTS = 30, 50


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def eigenvalues(groups: int = 1) -> Tensor:
    """Return Λ near an outer product, falling over four orders of magnitude, as real ones do."""
    with seeded(3):
        rows = torch.logspace(0, -2, OUTPUTS, dtype=torch.float64)
        columns = torch.logspace(1, -1, INPUTS, dtype=torch.float64)
        noise = 0.05 * normal(groups, OUTPUTS, INPUTS)
    return rows.unsqueeze(1) * columns * noise.exp()


def weighted(values: Tensor, weights: Weights) -> Tensor:
    return weights.outputs.unsqueeze(-1) * values * weights.inputs.unsqueeze(-2)


@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_sum_is_within_its_tolerance_and_hardly_longer_than_the_best(tolerance, groups):
    values = segment_response(eigenvalues(groups), step_mass=2.0)
    weights = Weights.of(eigenvalues(groups), eigenvalues(groups))
    found = FilterSum.of(values, weights, tolerance=tolerance, longest=OUTPUTS)
    off = weighted(found.outputs.mT @ found.inputs - values, weights).norm()
    assert off <= tolerance * weighted(values, weights).norm()
    sizes = torch.linalg.svdvals(weighted(values, weights)).square().sum(0)
    behind = (sizes.flip(0).cumsum(0).flip(0) / sizes.sum()).sqrt()
    best = int((behind > tolerance).sum())
    assert best <= len(found) <= best + 1
    assert len(found) < OUTPUTS


def test_a_sum_that_would_be_too_long_is_none():
    with seeded(4):
        rough = normal(1, OUTPUTS, INPUTS)
    ones = torch.ones_like(rough)
    assert FilterSum.of(rough, Weights.of(ones), tolerance=1e-3, longest=10) is None
    whole = FilterSum.of(rough, Weights.of(ones), tolerance=1e-3, longest=OUTPUTS)
    assert_close(whole.outputs.mT @ whole.inputs, rough, tolerance=1e-2)


@pytest.mark.parametrize("terms", [1, 3])
def test_applied_it_is_the_filter(terms):
    values = segment_response(eigenvalues(2), step_mass=2.0)
    with seeded(5):
        rotated = FactoredGradient(normal(4, 2, terms, INPUTS), normal(4, 2, terms, OUTPUTS))
    whole = FilterSum.of(values, Weights.of(values), tolerance=1e-6, longest=OUTPUTS)
    found = whole.apply(rotated)
    assert found.terms == terms * len(whole)
    assert_close(found.dense(), values * rotated.dense(), tolerance=1e-4)


def test_filtered_sums_are_within_the_tolerance_in_every_row():
    values = segment_response(eigenvalues(2), step_mass=2.0)
    weights = Weights.of(eigenvalues(2))
    with seeded(6):
        scale = torch.tensor([1e-6, 1.0, 1e6, 0.0, 1.0]).double().reshape(5, 1, 1, 1)
        rotated = FactoredGradient(normal(5, 2, 3, INPUTS), scale * normal(5, 2, 3, OUTPUTS))
    found = filtered_sums(values, rotated, weights, tolerance=0.01, longest=OUTPUTS)
    exact = weighted(values * rotated.dense(), weights).flatten(1).norm(dim=1)
    off = weighted(values * rotated.dense() - found.dense(), weights).flatten(1).norm(dim=1)
    assert bool((off <= 0.01 * exact).all())
    assert found.terms < OUTPUTS
    assert filtered_sums(values, rotated, weights, tolerance=1e-9, longest=4) is None


def test_without_weights_all_coordinates_count_alike():
    values = segment_response(eigenvalues(), step_mass=2.0)
    found = FilterSum.of(values, None, tolerance=0.05, longest=OUTPUTS)
    assert (found.outputs.mT @ found.inputs - values).norm() <= 0.05 * values.norm()
    assert len(found) < OUTPUTS


def test_nothing_weighs_nothing():
    """Coordinates, rows and whole groups without energy give no infinities."""
    values = segment_response(eigenvalues(2), step_mass=2.0)
    energy = eigenvalues(2)
    energy[1] = 0
    energy[0, :, :4] = 0
    weights = Weights.of(energy, energy)
    found = FilterSum.of(values, weights, tolerance=1e-2, longest=OUTPUTS)
    assert bool(found.outputs.isfinite().all() and found.inputs.isfinite().all())
    nothing = FactoredGradient(torch.zeros(2, 2, 3, INPUTS), torch.zeros(2, 2, 3, OUTPUTS))
    kept = filtered_sums(values.float(), nothing, weights, tolerance=1e-2, longest=OUTPUTS)
    assert not kept.dense().any()


def test_leading_terms_are_the_singular_ones():
    with seeded(8):
        spectrum = torch.logspace(0, -8, INPUTS - 20, dtype=torch.float64)
        left = torch.linalg.qr(normal(3, OUTPUTS, OUTPUTS))[0]
        right = torch.linalg.qr(normal(3, INPUTS, INPUTS))[0]
    matrices = left * spectrum @ right[..., :OUTPUTS, :]
    found, carrying = leading_terms(matrices, 5)
    assert_close(found @ found.mT, torch.eye(5).double().expand(3, 5, 5))
    assert_close(carrying.norm(dim=-1), torch.linalg.svdvals(matrices)[:, :5], tolerance=1e-6)


def test_leading_terms_of_sums_keep_what_they_can_and_rows_do_not_meet():
    with seeded(7):
        two = FactoredGradient(normal(6, 1, 2, INPUTS), normal(6, 1, 2, OUTPUTS))
    repeated = FactoredGradient(
        torch.cat([two.inputs, two.inputs], 2),
        torch.cat([two.output_gradients, 2 * two.output_gradients], 2),
    )
    left, right = leading_terms(repeated, 2, improved=False)
    assert left.shape[2] == 2
    assert_close(left.mT @ right, 3 * two.dense())
    alone, _ = leading_terms(repeated.rows(torch.tensor([4])), 1, improved=False)
    among, _ = leading_terms(repeated, 1, improved=False)
    assert_close(among[4:5], alone)


def test_the_shortest_sum_of_an_exact_one_has_its_length():
    with seeded(9):
        factors = FactoredGradient(normal(4, 1, 3, INPUTS), normal(4, 1, 3, OUTPUTS))
    left, right = shortest_sum(factors.dense(), 16, OUTPUTS, tolerance=1e-6)
    assert left.shape == (4, 1, 3, OUTPUTS)
    assert_close(left.mT @ right, factors.dense())


def test_what_hardly_falls_is_given_up_without_a_number_too_large_for_floats():
    """Equal singular values leave out all but a sliver at every length."""
    matrices = torch.eye(200, dtype=torch.float64).unsqueeze(0)
    assert shortest_sum(matrices, 2, 100, tolerance=1e-6) is None


def test_a_sum_has_at_least_the_terms_that_are_asked_for():
    values = segment_response(eigenvalues(), step_mass=2.0)
    weights = Weights.of(eigenvalues(), eigenvalues())
    short = FilterSum.of(values, weights, tolerance=0.3, longest=OUTPUTS)
    assert len(short) < 8
    assert len(FilterSum.of(values, weights, tolerance=0.3, longest=OUTPUTS, fewest=8)) == 8
    assert FilterSum.of(values, weights, tolerance=0.3, longest=5, fewest=8) is None
