"""Seconds by name, and the rate of large products."""

import time

import pytest
import torch

from sourcetrace.core.machine.timing import Timings, matmul_rate
from tests.tiny import CPU


def test_what_is_timed_again_goes_on_also_behind_an_error():
    timings = Timings(CPU)
    with timings.timed("scoring"):
        time.sleep(0.01)
    first = timings.seconds["scoring"]

    def fails():
        with timings.timed("scoring"):
            time.sleep(0.01)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    assert timings.seconds["scoring"] >= first + 0.01 >= 0.02
    assert timings.seconds.keys() == {"scoring"}


def test_the_rate_is_measured_once_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    rate = matmul_rate(CPU, torch.float32)
    assert rate > 1e6
    assert matmul_rate(CPU, torch.float32) == rate
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_left_is_as_late_as_what_was_timed():
    timings = Timings(CPU)
    assert timings.left == 0
    timings.expected = {"one": 2.0, "two": 3.0, "three": 5.0}
    assert timings.left == 10
    timings.seconds = {"one": 4.0, "another": 7.0}
    assert timings.left == 16
    timings.seconds |= {"two": 3.0, "three": 1.0}
    assert timings.left == 0
