"""Learning rates from a CSV file and from saved schedulers."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from sourcetrace.checkpoints.learning_rates import read_learning_rates
from sourcetrace.checkpoints.scheduler_state import scheduled_rates
from sourcetrace.errors import InputError

KNOWN = {
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, 3, gamma=0.5),
    "MultiStepLR": lambda optimizer: schedulers.MultiStepLR(optimizer, [2, 5, 5]),
    "ExponentialLR": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 10, 1e-3),
    "LinearLR": lambda optimizer: schedulers.LinearLR(optimizer, 0.1, 1.0, total_iters=4),
}
UNKNOWN = {
    "LambdaLR": lambda optimizer: schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, 0.1, 20),
    "PolynomialLR": lambda optimizer: schedulers.PolynomialLR(optimizer, 10),
}


def run(make, *, epochs=7, steps_an_epoch=1):
    """Step a real scheduler; return its state and every step's rates, [steps, groups]."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.3)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(steps_an_epoch):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
        scheduler.step()
    current = [group["lr"] for group in optimizer.param_groups]
    return scheduler.state_dict(), torch.tensor(rates, dtype=torch.float64), current


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("steps_an_epoch", [1, 4])
def test_a_known_scheduler_is_rebuilt_step_by_step(name, steps_an_epoch):
    state, expected, current = run(KNOWN[name], steps_an_epoch=steps_an_epoch)
    found = scheduled_rates(state, steps=len(expected), current=current)
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_rebuilt_of_other_schedulers(name):
    state, rates, current = run(UNKNOWN[name])
    assert scheduled_rates(state, steps=len(rates), current=current) is None


def test_nothing_is_rebuilt_that_does_not_end_at_the_checkpoints_rate():
    state, rates, current = run(KNOWN["StepLR"])
    assert scheduled_rates(state, steps=len(rates) + 1, current=current) is None
    assert scheduled_rates(state, steps=len(rates), current=[0.1, 0.2]) is None
    assert scheduled_rates(state, steps=len(rates), current=current[:1]) is None


def test_nothing_is_rebuilt_of_settings_that_torch_would_not_take():
    state, rates, current = run(KNOWN["CosineAnnealingLR"])
    for period in (0, "ten", None):
        changed = {**state, "T_max": period}
        assert scheduled_rates(changed, steps=len(rates), current=current) is None


def test_a_rate_of_the_file_holds_until_the_next(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate\n4,0.2\n1,0.1\n")
    found = read_learning_rates(file, last_step=6)
    assert found.rates[:, 0].tolist() == [0.1] * 3 + [0.2] * 3
    assert (found.first_step, found.source) == (1, "recorded")


def test_a_file_may_have_a_column_for_groups(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate,group\n0,0.1,0\n0,0.3,1\n2,0.2,0\n")
    assert read_learning_rates(file, last_step=2).rates.tolist() == [[0.1, 0.3], [0.2, 0.3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,rate\n1,0.1\n", "has columns step, rate; expected step, learning_rate"),
        ("step,learning_rate\n5,0.1\n", "begin with step 5"),
        ("step,learning_rate\n1,0.1\n1,0.2\n", "each step once"),
        ("step,learning_rate\n1,-0.1\n", "negative or not finite"),
        ("step,learning_rate\n1,\n", "none empty"),
        ("step,learning_rate,group\n1,0.1,1\n", "expected 0, 1"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    file = tmp_path / "rates.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_learning_rates(file, last_step=3)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no file.*rates\.csv"):
        read_learning_rates(tmp_path / "rates.csv", last_step=3)
