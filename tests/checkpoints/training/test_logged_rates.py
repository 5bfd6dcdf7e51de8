"""Rates of every step, from a log of a few and the schedules of transformers."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from transformers import get_scheduler

from sourcetrace.checkpoints.training.logged_rates import LoggedRates

BASE = 0.003
SCHEDULES = {
    "constant": {},
    "constant_with_warmup": {},
    "linear": {},
    "cosine": {},
    "cosine, a whole wave": {"num_cycles": 1},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {},
    "polynomial, cubic": {"power": 3.0, "lr_end": 0.0},
    "inverse_sqrt": {},
    "inverse_sqrt, slow": {"timescale": 40},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-4},
    "warmup_stable_decay": {"num_decay_steps": 30},
    "warmup_stable_decay, linear": {"num_decay_steps": 25, "decay_type": "linear"},
    "warmup_stable_decay, 1-sqrt": {"num_decay_steps": 40, "decay_type": "1-sqrt"},
}


def made(scheduler_of, steps):
    """Return the rate of every step, and of the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=BASE)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


def of_transformers(name, *, warm_up, planned):
    return lambda optimizer: get_scheduler(
        name.split(",")[0],
        optimizer,
        num_warmup_steps=warm_up,
        num_training_steps=planned,
        scheduler_specific_kwargs=SCHEDULES[name],
    )


def known(rates, *, every, planned, late=False, constant=False):
    """Return what a log of every so many steps says of all of them."""
    last = len(rates) - 1
    log = {step: rates[step - 1 + late] for step in range(every, last + 1, every)}
    return LoggedRates(log, planned, constant).known(
        1, last, following=rates[last], base=BASE, origin="log of a"
    )


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_of_every_step_are_those_of_the_schedule(name, late):
    rates = made(of_transformers(name, warm_up=12, planned=150), 140)
    constant = name == "constant"
    found = known(rates, every=10, planned=150, late=late, constant=constant)
    if constant:  # warm-ups of up to nine steps would look the same in the log
        assert found.source == "constant"
    else:
        assert found.source == "reconstructed"
        assert found.origin.startswith("log of a, on transformers' ")
    assert found.rates[:, 0].tolist() == pytest.approx(rates[:-1], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", ["constant_with_warmup", "warmup_stable_decay"])
def test_a_warm_up_of_which_nothing_is_logged_is_not_guessed(name):
    rates = made(of_transformers(name, warm_up=7, planned=150), 140)
    assert known(rates, every=10, planned=150).source == "interpolated"


def test_a_schedule_of_ones_own_is_a_line_between_its_entries():
    def own(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step) ** 0.3)

    rates = made(own, 60)
    found = known(rates, every=6, planned=60)
    assert found.source == "interpolated"
    for before, after in pairwise(range(6, 61, 6)):
        assert rates[before - 1] >= found.rates[before, 0] >= rates[after - 1]


@given(st.data())
def test_what_is_believed_is_right(data):
    """Whatever is logged, the rates are those of the schedule, or are not said to be."""
    name = data.draw(st.sampled_from(sorted(SCHEDULES)))
    planned = data.draw(st.integers(40, 400))
    warm_up = data.draw(st.integers(0, planned // 2))
    steps = data.draw(st.integers(2, planned))
    every = data.draw(st.integers(1, max(1, steps // 2)))
    late = data.draw(st.booleans())
    decay = SCHEDULES[name].get("num_decay_steps")
    if decay:  # begun with the first entry, nothing tells it from a schedule without stable steps
        assume(planned - decay > every)
        warm_up = min(warm_up, planned - decay)
    rates = made(of_transformers(name, warm_up=warm_up, planned=planned), steps)
    found = known(rates, every=every, planned=planned, late=late)
    if found.source in ("reconstructed", "recorded"):
        expected = rates[:-1]
        assert found.rates[:, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7 * BASE)


def test_logs_that_went_through_float32_are_matched():
    rates = made(of_transformers("cosine", warm_up=12, planned=150), 140)
    rounded = torch.tensor(rates).tolist()
    found = known(rounded, every=10, planned=150)
    assert found.source == "reconstructed"
    assert found.rates[:, 0].tolist() == pytest.approx(rates[:-1], rel=1e-6, abs=1e-12)


def test_a_log_of_a_million_steps_takes_no_more_than_a_moment():
    planned, every = 1_000_000, 500
    log = {
        step: BASE * (1 - (step - 1 - 300) / (planned - 300))
        for step in range(every, planned, every)
    }
    found = LoggedRates(log, planned).known(1, planned, following=0.0, base=BASE, origin="a")
    assert found.source == "reconstructed"
    assert float(found.rates[0, 0]) == 0.0
    assert float(found.rates[300, 0]) == pytest.approx(BASE)
