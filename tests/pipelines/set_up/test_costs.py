"""How the work of an audit is cut, by what an example takes and what its sums need."""

from types import SimpleNamespace

import pytest

from sourcetrace.core.methods.cost import RunCost, _StageCost
from sourcetrace.pipelines.set_up.costs import PlannedCost


def cut(*, sums, free=10**15, seconds=1e-3, unit_seconds=10.0, examples=10**6):
    """Return the ranges' size of an audit of two points, whose sums take so many bytes each."""
    run = RunCost(0, 0, (_StageCost("covariances", 0.0, 2 * sums),))
    planned = PlannedCost("recompute", 0, seconds, run, disk=0, free_disk=free)
    points = [object(), object()]
    return planned.grid(
        SimpleNamespace(batch_size=100, training=range(examples)),
        SimpleNamespace(points=points, segments=[SimpleNamespace(points=points)]),
        0,
        unit_seconds=unit_seconds,
    ).range_size


def test_a_unit_takes_what_is_asked_for_up_to_a_power_of_two():
    assert cut(sums=10**6) == 6400


@pytest.mark.parametrize("gigabytes", [1, 5])
def test_a_unit_is_worth_writing_its_sums(gigabytes):
    assert 20 <= cut(sums=gigabytes * 10**9) * 1e-3 / gigabytes <= 40


def test_what_waits_to_be_added_fits_the_disk():
    size = cut(sums=10**9, free=10 * 10**9)
    assert -(-(10**6) // size) <= 10
    assert cut(sums=10**9, free=0) >= 10**6
