"""Every method is one record."""

import pytest
import torch

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.methods import METHODS, scaling_queries


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_it_is_said_and_its_filter_is_one(name):
    method = METHODS[name]
    assert all([method.title, method.remark, method.description])
    made = method.make_filter(FilterSettings(step_mass=2.0, weight_decay=0.1))
    eigenvalues = torch.tensor([[0.0, 0.5, 3.0]])
    for one in (made.response, made.propagation):
        assert one(eigenvalues).shape == eigenvalues.shape
        assert bool((one(eigenvalues) > 0).all())
    assert (made.solve_damping is not None) == (method.scoring == "exact solves")
    if method.scales_curvature or method.follows_optimizer:
        assert made.uses_curvature


def test_fewer_queries_measure_the_scale_where_their_responses_are_large():
    assert [scaling_queries(1000, 10**power) for power in (3, 6, 9)] == [64, 64, 32]
    assert scaling_queries(20, 10**9) == scaling_queries(20, 10**3) == 20
    assert 32 < scaling_queries(1000, 6_000_000) < 64
