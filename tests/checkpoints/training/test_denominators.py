"""A step of the optimiser's own is the gradient over what its state says that it was divided by."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn, optim

from sourcetrace.checkpoints.training.optimizer_state import TrainingState
from sourcetrace.checkpoints.training.second_moments import denominators_of
from sourcetrace.core.training.optimizer_settings import DECOUPLED
from sourcetrace.errors import InputError
from tests.tiny import seeded

FILE, RATE, STEPS = Path("a.pt"), 0.01, 12
NO_AVERAGE = {"betas": (0.0, 0.95)}
# Settings with which the gradient itself, not an average of it, is divided.
MAKE = {
    "SGD": lambda p: optim.SGD(p, lr=RATE),
    "Adam": lambda p: optim.Adam(p, lr=RATE, **NO_AVERAGE),
    "AdamW": lambda p: optim.AdamW(p, lr=RATE, amsgrad=True, weight_decay=0, **NO_AVERAGE),
    "NAdam": lambda p: optim.NAdam(p, lr=RATE, **NO_AVERAGE),
    "NAdamW": lambda p: optim.NAdam(p, lr=RATE, decoupled_weight_decay=True, **NO_AVERAGE),
    "RAdam": lambda p: optim.RAdam(p, lr=RATE, **NO_AVERAGE),
    "RAdamW": lambda p: optim.RAdam(p, lr=RATE, betas=(0, 0.8), decoupled_weight_decay=True),
    "Adamax": lambda p: optim.Adamax(p, lr=RATE, **NO_AVERAGE),
    "RMSprop": lambda p: optim.RMSprop(p, lr=RATE),
    "RMSprop, centred": lambda p: optim.RMSprop(p, lr=RATE, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=RATE, lr_decay=0.1, initial_accumulator_value=0.1),
    "Adadelta": lambda p: optim.Adadelta(p, lr=RATE, rho=0.9),
    "Adafactor": lambda p: optim.Adafactor(p, lr=RATE, d=1e9),
    "Adafactor, fast": lambda p: optim.Adafactor(p, lr=0.5, d=1e9),
    "Adafactor, transformers": lambda p: transformers.Adafactor(
        p, lr=RATE, relative_step=False, clip_threshold=1e9
    ),
    "Adafactor, relative": lambda p: transformers.Adafactor(
        p, clip_threshold=1e9, warmup_init=True
    ),
}


def steps(make, shapes=((3, 2), (4,)), count=STEPS):
    """Take steps along random gradients; return optimiser, weights before the last, parameters."""
    with seeded(3):
        parameters = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
        optimizer = make(parameters)
        for _ in range(count):
            before = [p.detach().clone() for p in parameters]
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    return optimizer, before, parameters


@pytest.mark.parametrize("name", [name for name in MAKE if name != "SGD"])
def test_a_step_is_the_gradient_over_the_denominator(name):
    optimizer, before, parameters = steps(MAKE[name])
    saved = optimizer.state_dict()
    if name == "Adadelta":  # its step is made before the average of steps has it
        for entry, parameter, old in zip(saved["state"].values(), parameters, before, strict=True):
            step = (parameter.detach() - old) / RATE
            entry["acc_delta"] = (entry["acc_delta"] - 0.1 * step**2) / 0.9
    weights = {"module.a": before[0], "module.b": before[1]}
    found = denominators_of(FILE, saved, {0: ["a"], 1: ["b"]}, lambda: weights)
    state = described(optimizer)
    assert state.optimizer == name.split(",")[0]
    for key, parameter, old in zip("ab", parameters, before, strict=True):
        expected = (old - parameter.detach()) / parameter.grad
        rate = state.groups[0].settings.learning_rate
        torch.testing.assert_close(rate / found[key], expected, rtol=1e-6, atol=0)


def described(optimizer, step=STEPS):
    content = {"step": step, "optimizer_state_dict": optimizer.state_dict()}
    return TrainingState.of(FILE, content)


@pytest.mark.parametrize("name", MAKE)
def test_an_optimiser_is_known_by_its_settings_before_its_first_step(name):
    optimizer = MAKE[name]([nn.Parameter(torch.ones(2))])
    if "relative" in name:
        with pytest.raises(InputError, match="cannot be read"):
            described(optimizer, step=0)
    else:
        assert described(optimizer, step=0).optimizer == name.split(",")[0]


@pytest.mark.parametrize("name", MAKE)
def test_a_parameter_has_the_shape_that_its_state_has(name):
    shapes = ((3, 2), (4,), (2, 5, 3))
    optimizer, *_ = steps(MAKE[name], shapes, count=2)
    found = described(optimizer, step=2).shapes
    assert found == ({} if name == "SGD" else dict(enumerate(shapes)))


def test_a_gradient_that_never_came_has_an_infinite_denominator():
    for name, make in MAKE.items():
        parameter = nn.Parameter(torch.ones(2, 2))
        optimizer = make([parameter])
        for _ in range(8):
            parameter.grad = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
            optimizer.step()
        if name != "SGD":
            weights = {"a": parameter.detach()}
            found = denominators_of(FILE, optimizer.state_dict(), {0: ["a"]}, lambda w=weights: w)
            # What Adagrad begins with divides as well, gradient or not.
            never = name != "Adagrad"
            assert found["a"].isinf().tolist() == [[False, False], [never, never]], name


SMALL = {
    "Adam": (torch.float16, lambda p: optim.Adam(p, lr=RATE, eps=1e-4)),
    "RMSprop": (torch.float16, lambda p: optim.RMSprop(p, lr=RATE, eps=1e-4)),
    "RMSprop, centred": (
        torch.float16,
        lambda p: optim.RMSprop(p, lr=RATE, eps=1e-4, centered=True),
    ),
    "Adagrad": (torch.float32, lambda p: optim.Adagrad(p, initial_accumulator_value=0.1)),
    "Adafactor": (
        torch.float32,
        lambda p: transformers.Adafactor(
            p, lr=RATE, eps=(1e-8, 1e-3), scale_parameter=False, relative_step=False
        ),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_gradient_whose_square_is_lost_was_divided_all_the_same(name):
    dtype, make = SMALL[name]
    parameter = nn.Parameter(torch.ones(2, dtype=dtype))
    optimizer = make([parameter])
    for _ in range(STEPS):
        parameter.grad = torch.full((2,), 5e-5, dtype=dtype)
        optimizer.step()
    state = described(optimizer)
    weights = {"a": parameter.detach()}
    found = denominators_of(FILE, optimizer.state_dict(), {0: ["a"]}, lambda: weights)["a"]
    moved = float(1 - parameter.detach()[0])
    rate = state.groups[0].settings.learning_rate
    assert STEPS * rate * 5e-5 / float(found[0]) == pytest.approx(moved, rel=0.05)


def test_rates_that_adafactor_sets_itself_are_those_of_every_step():
    optimizer, *_ = steps(MAKE["Adafactor, relative"])
    rates = [min(1e-6 * step, step**-0.5) for step in range(1, STEPS + 1)]
    state = described(optimizer)
    assert state.learning_rates[:, 0].tolist() == pytest.approx(rates)
    assert state.groups[0].settings.learning_rate == pytest.approx(rates[-1])
    assert state.sources["learning_rates"] == "relative_step"
    assert state.sources["updates"] == "assumed: Adafactor's own clipping changed no update"
    scaled = transformers.Adafactor([nn.Parameter(torch.ones(2))], weight_decay=0.1)
    with pytest.raises(InputError, match="scale_parameter and weight decay"):
        described(scaled)


@pytest.mark.parametrize("correct_bias", [True, False])
def test_the_adamw_of_older_transformers_corrects_beside_its_epsilon(correct_bias):
    second, gradient, beta, eps = torch.tensor([4.0, 9.0]), torch.tensor([1.0, -2.0]), 0.9, 0.5
    group = {"lr": RATE, "betas": (0.0, beta), "eps": eps, "weight_decay": 0.1}
    state = {
        "state": {0: {"step": 3, "exp_avg": gradient, "exp_avg_sq": second}},
        "param_groups": [{**group, "correct_bias": correct_bias, "params": [0]}],
    }
    size = RATE * (1 - beta**3) ** 0.5 if correct_bias else RATE
    step = size * gradient / (second.sqrt() + eps)
    found = denominators_of(FILE, state, {0: ["a"]}, dict)["a"]
    torch.testing.assert_close(RATE * gradient / found, step)
    known = TrainingState.of(FILE, {"step": 3, "optimizer_state_dict": state})
    assert known.optimizer == "AdamW"


@pytest.mark.parametrize("name", [name for name in MAKE if name != "SGD"])
def test_a_state_that_no_optimiser_writes_raises_nothing_else_than_a_refusal(name):
    optimizer, before, _ = steps(MAKE[name])
    for key in optimizer.state_dict()["state"][0]:
        for odd in (None, "1", torch.tensor(-1.0), torch.ones(0), 10**30, float("nan")):
            state = optimizer.state_dict()
            state["state"] = {0: {**state["state"][0], key: odd}}
            # Or taken: not all that is odd can be told from what is not.
            with suppress(InputError):
                found = denominators_of(FILE, state, {0: ["a"]}, lambda: {"a": before[0]})
                assert bool((found["a"] > 0).all())


def test_momentum_adds_steps_up_in_rmsprop_alone():
    ball = described(optim.RMSprop([nn.Parameter(torch.ones(2))], momentum=0.9), 0)
    assert ball.groups[0].settings.step_factor == pytest.approx(10)
    average = described(optim.Muon([nn.Parameter(torch.ones(2, 2))], momentum=0.9), 0)
    assert average.groups[0].settings.step_factor == 1
    assert {"AdamW", "Muon"} < set(DECOUPLED)


def quantised(moment, blocks):
    """Return what bitsandbytes keeps of a second moment: 8 bits, and a scale a block."""
    table = torch.linspace(0, 1, 256)
    flat = moment.flatten()
    scales = torch.stack([part.max() for part in flat.split(blocks)])
    shares = flat / scales.repeat_interleave(blocks)[: len(flat)]
    return {
        "state1": torch.zeros(moment.shape, dtype=torch.uint8),
        "state2": (shares * 255).round().to(torch.uint8).view(moment.shape),
        "qmap1": table,
        "qmap2": table,
        "absmax1": scales,
        "absmax2": scales,
    }


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("blocks", [256, 2048])
def test_8_bit_second_moments_are_adams_up_to_their_rounding(blocks, wrapped):
    optimizer, *_ = steps(lambda p: optim.AdamW(p, lr=RATE), ((70, 60), (4,)))
    state = optimizer.state_dict()
    expected = denominators_of(FILE, state, {0: ["a"], 1: ["b"]}, dict)
    large, small = state["state"].values()
    own = quantised(large["exp_avg_sq"], blocks)
    state["state"] = {
        0: {"step": STEPS, **({"__bnb_optimizer_quant_state__": own} if wrapped else own)},
        1: {"step": STEPS, "state1": small["exp_avg"], "state2": small["exp_avg_sq"]},
    }
    kept = ("params", "lr", "betas", "eps", "weight_decay")
    group = {key: state["param_groups"][0][key] for key in kept} | {"alpha": 0.0}
    state["param_groups"] = [group]
    found = denominators_of(FILE, state, {0: ["a"], 1: ["b"]}, dict)
    torch.testing.assert_close(found["b"], expected["b"])
    # 1/510 of the block's largest.
    moved = found["a"].isfinite()
    assert moved.float().mean() > 0.9
    off = (found["a"].square() - expected["a"].square())[moved].abs().max()
    assert off < expected["a"].square().max() / 500
    content = {"step": STEPS, "optimizer_state_dict": state}
    described = TrainingState.of(FILE, content)
    assert (described.optimizer, described.shapes) == ("AdamW", {0: (70, 60), 1: (4,)})
    group["alpha"] = 5.0
    with pytest.raises(InputError, match="the optimiser is AdEMAMix"):
        TrainingState.of(FILE, content)
    group["alpha"] = 0.0
    del state["state"][1]["state2"]
    with pytest.raises(InputError, match=r"its state has .*\. Supported are"):
        TrainingState.of(FILE, content)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_in_half_precision_are_those_of_their_rounded_values(dtype):
    optimizer, *_ = steps(MAKE["Adam"])
    state = optimizer.state_dict()
    for entry in state["state"].values():
        entry["exp_avg_sq"] = entry["exp_avg_sq"].to(dtype)
    found = denominators_of(FILE, state, {0: ["a"]}, dict)["a"]
    corrected = state["state"][0]["exp_avg_sq"].float() / (1 - 0.95**STEPS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, corrected.sqrt() + 1e-8)


def lion(average):
    """Return what Google's Lion saves, which torch has not."""
    group = {"lr": RATE, "betas": (0.9, 0.99), "weight_decay": 0.1, "params": [0]}
    return {"state": {0: {"exp_avg": average}}, "param_groups": [group]}


def test_lion_and_muon_have_one_length_a_tensor():
    with seeded(4):
        average = torch.randn(6, 3)
    state = lion(average)
    size = average.square().mean().sqrt()
    found = denominators_of(FILE, state, {0: ["a"]}, dict)["a"]
    torch.testing.assert_close(found, size.expand(6, 3))
    known = TrainingState.of(FILE, {"step": 3, "optimizer_state_dict": state})
    assert known.optimizer == "Lion"
    assert "along its averaged gradient" in known.sources["steps"]
    for adjusted in (None, "match_rms_adamw"):
        optimizer, before, parameters = steps(
            lambda p, how=adjusted: optim.Muon(p, lr=RATE, adjust_lr_fn=how, weight_decay=0),
            ((6, 3),),
        )
        found = denominators_of(FILE, optimizer.state_dict(), {0: ["a"]}, dict)["a"]
        buffer = optimizer.state_dict()["state"][0]["momentum_buffer"]
        length = (RATE * buffer / found).square().mean().sqrt()
        moved = (parameters[0].detach() - before[0]).square().mean().sqrt()
        # Muon's orthogonalisation is good to a third.
        assert float(length) == pytest.approx(float(moved), rel=0.35)
