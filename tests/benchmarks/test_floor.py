"""Multiplications by stage, and the time against them."""

import torch
from benchmarks.floor import CountingStopwatch, floor_table
from benchmarks.measurement import STAGES, Cost
from benchmarks.multiplications import MultiplicationCounter


def test_a_stage_counts_what_runs_in_it_and_goes_on_when_it_comes_again() -> None:
    one, other = torch.ones(2, 3), torch.ones(3, 5)
    with MultiplicationCounter() as counter:
        watch = CountingStopwatch(counter)
        watch.start("first")
        one @ other
        watch.start("second")
        other.T @ one.T
        one @ other
        watch.start("first")
        one @ other
        watch.stop()
        one @ other  # nobody's
        watch.stop()
    assert watch.multiplications == {"first": 2 * 30, "second": 2 * 30}


def test_the_ratio_is_the_time_over_that_of_the_multiplications() -> None:
    counted = dict(zip(STAGES, (100, 0, 50, 50), strict=True))
    times = {stage: Cost(2.0, 4.0, 1) for stage in STAGES}
    table = floor_table(counted, times, rate=100.0)
    ratios = list(table.columns[4].cells)
    assert ratios == ["2.00", "", "4.00", "4.00", "4.00"]
