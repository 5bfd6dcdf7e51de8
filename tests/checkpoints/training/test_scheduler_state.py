"""What saved schedulers say, against trainings in which torch's own moved every step."""

import io
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as schedulers

from sourcetrace.checkpoints.training.scheduler_state import SavedScheduler, scheduled_rates
from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.schedules import sum_rates
from sourcetrace.core.training.segments import CheckpointRecord, group_step_masses


def chained(optimizer):
    return schedulers.ChainedScheduler(
        [schedulers.ConstantLR(optimizer, 0.1, 3), schedulers.ExponentialLR(optimizer, 0.9)]
    )


def sequential(optimizer):
    return schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, 0.1, total_iters=4),
            schedulers.CosineAnnealingLR(optimizer, 30),
        ],
        [4],
    )


def cyclic(optimizer, **settings):
    return schedulers.CyclicLR(optimizer, [0.01, 0.02], [0.1, 0.3], 4, 7, **settings)


FOLLOWED = {
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, 3, gamma=0.5),
    "MultiStepLR": lambda optimizer: schedulers.MultiStepLR(optimizer, [2, 5, 5]),
    "ConstantLR": lambda optimizer: schedulers.ConstantLR(optimizer, 0.3, 4),
    "LinearLR": lambda optimizer: schedulers.LinearLR(optimizer, 0.1, 1.0, total_iters=4),
    "ExponentialLR": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9),
    "PolynomialLR": lambda optimizer: schedulers.PolynomialLR(optimizer, 50, 1.5),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 10, 1e-3),
    "CosineAnnealingWarmRestarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(
        optimizer, 5, 2
    ),
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, [0.2, 0.4], 100),
    "OneCycleLR in three phases": lambda optimizer: schedulers.OneCycleLR(
        optimizer, 0.2, 100, three_phase=True, anneal_strategy="linear", cycle_momentum=False
    ),
    "CyclicLR": cyclic,
    "CyclicLR, exp_range": lambda optimizer: cyclic(
        optimizer, mode="exp_range", gamma=0.95, cycle_momentum=False
    ),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
}
ASKED_FOR = {
    "LambdaLR": lambda optimizer: schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "MultiplicativeLR": lambda optimizer: schedulers.MultiplicativeLR(optimizer, lambda _: 0.9),
    "CyclicLR with a function": lambda optimizer: cyclic(
        optimizer, scale_fn=lambda cycle: 0.7**cycle, cycle_momentum=False
    ),
    "ReduceLROnPlateau": lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=2),
    "SequentialLR of a LambdaLR": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LambdaLR(optimizer, lambda epoch: epoch / 9), schedulers.StepLR(optimizer, 3)],
        [9],
    ),
}


def as_read(state):
    """Write a state and read it back as a checkpoint's is read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Trained:
    """A toy trained with a scheduler: what its checkpoints have, and every step's true mass."""

    def __init__(self, make, at, *, between=1, before=False, adam=False, step=None):
        """Train up to the last of the steps `at`, the scheduler stepped after every `between`-th.

        Args:
            before: Checkpoints are saved before the scheduler is stepped, not after.
            step: (scheduler, optimiser steps) -> None, instead of `scheduler.step()`.
        """
        groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.3)]
        optimizer = (
            torch.optim.AdamW(groups) if adam else torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        )
        scheduler = make(optimizer)
        masses, rates, self.saved, self.records = [], [], [], []
        for number in range(1, max(at) + 1):
            masses.append(
                [one["lr"] / (1 - one.get("momentum", 0)) for one in optimizer.param_groups]
            )
            rates.append([one["lr"] for one in optimizer.param_groups])
            for group in groups:
                group["params"][0].grad = torch.ones(1)
            optimizer.step()
            for now in (before, not before):
                if now and number in at:
                    self._save(number, scheduler, optimizer)
                if not now and step:
                    step(scheduler, number)
                elif not now and number % between == 0:
                    plateau = isinstance(scheduler, schedulers.ReduceLROnPlateau)
                    scheduler.step(*[number % 7] * plateau)
        self.rates = torch.tensor(rates, dtype=torch.float64)
        self.true = [
            torch.tensor(masses[begin:end], dtype=torch.float64).sum(0).tolist()
            for begin, end in zip([0, *at], at, strict=False)
        ]

    def _save(self, number, scheduler, optimizer):
        stored = deepcopy(optimizer.state_dict()["param_groups"])
        self.saved.append((number, SavedScheduler(as_read(scheduler.state_dict()), tuple(stored))))
        groups = tuple(
            ParameterGroup(
                one["lr"],
                one.get("momentum", 0.0),
                initial_learning_rate=one.get("initial_lr"),
                momentum_cycles="momentum" in one and "base_momentum" in one,
            )
            for one in stored
        )
        first = groups[0]
        self.records.append(
            CheckpointRecord(
                f"c{number}",
                number,
                "only",
                first.learning_rate,
                first.momentum,
                0.0,
                groups=groups,
            )
        )

    def found(self):
        """Return every checkpoint's step masses, and what is said of them."""
        known = scheduled_rates(self.saved, steps=self.records[-1].step, origin="c")
        summed, described = sum_rates(self.records, known=known, scheduled={"only"})
        return [list(masses) for masses in group_step_masses(summed)], described


STEPS = st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True).map(sorted)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.sampled_from([*FOLLOWED.values(), *ASKED_FOR.values()]),
    STEPS,
    st.integers(1, 25),
    st.booleans(),
    st.booleans(),
)
def test_what_is_not_asked_for_is_the_sum_over_the_real_steps(make, at, between, before, adam):
    trained = Trained(make, at, between=between, before=before, adam=adam)
    for masses, described, true in zip(*trained.found(), trained.true, strict=True):
        assert described.source in ("reconstructed", "interpolated")
        if described.source == "reconstructed":
            assert masses == pytest.approx(true, rel=1e-6)
            assert not described.momentum_guessed
    for known in scheduled_rates(trained.saved, steps=at[-1], origin="c"):
        found, true = known.rates, trained.rates[known.first_step - 1 : known.last_step]
        if known.guessed is not None:
            found, true = found[~known.guessed], true[~known.guessed]
        torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("adam", [False, True])
def test_a_scheduler_that_is_stepped_with_the_optimiser_is_followed(name, adam):
    trained = Trained(FOLLOWED[name], [7, 20, 37], adam=adam)
    masses, described = trained.found()
    assert [one.source for one in described] == ["reconstructed"] * 3
    for own, true in zip(masses, trained.true, strict=True):
        assert own == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("name", FOLLOWED)
def test_an_epochs_length_is_known_where_the_checkpoints_leave_one(name):
    trained = Trained(FOLLOWED[name], [19, 41, 60], between=4)
    masses, described = trained.found()
    assert [one.source for one in described] == ["reconstructed"] * 3
    for own, true in zip(masses, trained.true, strict=True):
        assert own == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_a_state_does_not_say_is_asked_for(name):
    _, described = Trained(ASKED_FOR[name], [11, 22, 55]).found()
    assert described[-1].source == "interpolated"


def test_a_rate_that_comes_back_at_every_checkpoint_is_not_constant():
    trained = Trained(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 20), [20, 40])
    masses, _ = trained.found()
    assert masses[0][0] == pytest.approx(10.5)
    assert trained.true[0][0] == pytest.approx(10.5)
    # Nor where the state was not saved: the optimiser's shows that there was a scheduler.
    _, described = sum_rates(trained.records)
    assert [one.source for one in described] == ["interpolated"] * 2


def test_a_checkpoint_in_mid_epoch_is_not_at_an_epochs_end():
    trained = Trained(lambda o: schedulers.StepLR(o, 1), [150], between=100)
    assert trained.true[0][0] == pytest.approx(105.0)
    _, (described,) = trained.found()
    assert described.source == "interpolated"
    trained = Trained(lambda o: schedulers.StepLR(o, 1), [150, 199, 201], between=100)
    masses, described = trained.found()
    assert [one.source for one in described] == ["reconstructed"] * 3
    assert masses[0][0] == pytest.approx(105.0)


def test_only_the_steps_near_an_unknown_epochs_end_are_a_guess():
    trained = Trained(lambda o: schedulers.StepLR(o, 4), [200, 400, 410], between=40)
    masses, described = trained.found()
    # 38 to 40 steps an epoch fit: the rate fell after 152 to 160 and after 304 to 320 steps.
    assert [one.interpolated_steps for one in described] == [8, 16, 0]
    assert described[0].interpolated_share < 0.1
    assert masses[0][0] == pytest.approx(trained.true[0][0], rel=0.1)
    assert masses[2] == pytest.approx(trained.true[2])


def test_fractions_of_an_epoch_are_no_epochs():
    trained = Trained(
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
        [10, 19, 20, 30],
        step=lambda scheduler, number: scheduler.step(number / 10),
    )
    _, described = trained.found()
    assert {one.source for one in described} == {"interpolated"}


def test_the_momentum_of_every_step_counts_where_the_scheduler_moves_it():
    trained = Trained(lambda o: schedulers.OneCycleLR(o, 0.2, total_steps=61), [20, 40, 60])
    masses, described = trained.found()
    assert [own[0] for own in masses] == pytest.approx([18.6, 24.2, 9.0], abs=0.05)
    assert [one.momentum_guessed for one in described] == [False] * 3
    _, described = sum_rates(trained.records)
    assert [one.momentum_guessed for one in described] == [True] * 3


def test_a_plateau_that_lowered_nothing_is_known():
    trained = Trained(lambda o: schedulers.ReduceLROnPlateau(o, patience=9), [9, 12, 20, 24])
    masses, described = trained.found()
    known = [one.source == "reconstructed" for one in described]
    assert known == [True, True, False, True]  # it was lowered at step 17
    for own, true in [
        pair
        for pair, sure in zip(zip(masses, trained.true, strict=True), known, strict=True)
        if sure
    ]:
        assert own == pytest.approx(true)


@pytest.mark.parametrize(
    "change",
    [
        {"T_max": 0},
        {"T_max": "ten"},
        {"T_max": None},
        {"T_max": 11},
        {"base_lrs": [0.1]},
        {"base_lrs": None},
        {"last_epoch": -1},
        {"last_epoch": 10**18},
        {"last_epoch": 6.5},
        {"_step_count": 3},
        {"step": 1},
        {"_schedulers": []},
        {"_schedulers": 5, "last_epoch": 7},
        {"_last_lr": [float("nan")] * 2},
        {"eta_min": -1.0},
    ],
)
def test_nothing_is_said_of_a_state_that_torch_would_not_have_come_to(change):
    ((step, saved),) = Trained(FOLLOWED["CosineAnnealingLR"], [7]).saved
    assert scheduled_rates([(step, saved)], steps=7, origin="c")
    damaged = SavedScheduler({**saved.state, **change}, saved.groups)
    assert scheduled_rates([(step, damaged)], steps=7, origin="c") == []


def test_the_steps_behind_a_stages_last_checkpoint_follow_its_scheduler():
    trained = Trained(FOLLOWED["OneCycleLR"], [10, 99])
    (known,) = scheduled_rates(trained.saved[:1], steps=120, origin="c")
    assert known.last_step == 101  # torch steps it no further
    (longer,) = scheduled_rates(trained.saved, steps=99, origin="c")
    torch.testing.assert_close(known.rates[:99], longer.rates)


@pytest.mark.parametrize("lowest", [-0.5, 1.1])
def test_momentum_that_no_training_survives_is_not_believed(lowest):
    def make(optimizer):
        return schedulers.OneCycleLR(optimizer, 0.2, 30, base_momentum=lowest)

    trained = Trained(make, [1, 25])
    assert scheduled_rates(trained.saved, steps=25, origin="c") == []


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_an_older_torch_wrote_is_followed(name):
    def aged(state):
        kept = {key: value for key, value in state.items() if key != "_is_initial"}
        if "_schedulers" in kept:
            return {**kept, "_schedulers": [aged(one) for one in kept["_schedulers"]]}
        return {**kept, "verbose": False}

    trained = Trained(FOLLOWED[name], [7, 20])
    expected = scheduled_rates(trained.saved, steps=20, origin="c")
    saved = [(step, SavedScheduler(aged(one.state), one.groups)) for step, one in trained.saved]
    found = scheduled_rates(saved, steps=20, origin="c")
    torch.testing.assert_close(found[0].rates, expected[0].rates)


ODD = st.sampled_from(
    [
        None,
        -1,
        0,
        10**9,
        10**400,
        0.5,
        float("inf"),
        float("nan"),
        1j,
        "x",
        True,
        [],
        [0.1],
        {},
        {5: 10**9},
    ]
) | st.builds(torch.zeros, st.integers(0, 2))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from([*FOLLOWED.values(), *ASKED_FOR.values()]), st.data())
def test_a_damaged_state_is_believed_or_not_and_never_fails(make, data):
    trained = Trained(make, [3, 8])
    step, last = trained.saved[-1]
    state, groups = dict(last.state), [dict(one) for one in last.groups]
    target = data.draw(st.sampled_from([state, *groups, *state.get("_schedulers", ())]))
    del target["params" if "params" in target else "_last_lr"]
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(ODD)
    saved = [*trained.saved[:-1], (step, SavedScheduler(state, tuple(groups)))]
    for known in scheduled_rates(saved, steps=step, origin="c"):
        assert known.rates.isfinite().all()


def test_a_state_that_holds_itself_says_nothing():
    ((step, saved),) = Trained(FOLLOWED["ChainedScheduler"], [7]).saved
    state = {"_last_lr": [0.1]}
    state["_schedulers"] = [state]
    circle = SavedScheduler(state, saved.groups)
    assert circle.epochs is None
    assert scheduled_rates([(step, circle)], steps=7, origin="c") == []


def test_the_documents_table_has_what_is_tested_here():
    page = (Path(__file__).parents[3] / "docs/reference/checkpoints.md").read_text()
    page = page.partition("## What a saved scheduler says")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+(?:`, `\w+)*`) \| (followed|known|a function)", page, re.MULTILINE)
    listed = {
        name: kind == "followed" for names, kind in rows for name in re.findall(r"\w+", names)
    }
    tested = dict.fromkeys((re.split(r"\W", name)[0] for name in ASKED_FOR), False)
    tested |= dict.fromkeys((re.split(r"\W", name)[0] for name in FOLLOWED), True)
    assert listed == tested
