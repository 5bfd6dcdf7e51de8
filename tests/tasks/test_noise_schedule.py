"""Noise schedules against their definitions, and what is read of diffusers' files."""

import json
import math

import pytest
import torch

from sourcetrace.errors import InputError
from sourcetrace.tasks import NoiseSchedule
from tests.tiny import assert_close, seeded


def products(betas: list[float]) -> torch.Tensor:
    share, found = 1.0, []
    for beta in betas:
        share *= 1 - beta
        found.append(share)
    return torch.tensor(found, dtype=torch.float64)


def line(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]


def cosine(steps: int) -> torch.Tensor:
    def curve(place: float) -> float:
        return math.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2

    pairs = [(i / steps, (i + 1) / steps) for i in range(steps)]
    return products([min(1 - curve(after) / curve(before), 0.999) for before, after in pairs])


def test_ready_made_schedules_are_products_of_their_betas():
    assert_close(NoiseSchedule.linear().alphas_cumprod, products(line(1e-4, 0.02, 1000)))
    assert_close(NoiseSchedule.cosine(50).alphas_cumprod, cosine(50))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_train_timesteps": 10, "beta_schedule": "linear"}, products(line(1e-4, 0.02, 10))),
        (
            {"beta_schedule": "scaled_linear", "num_train_timesteps": 9, "beta_end": 0.09},
            products([root**2 for root in line(1e-2, 0.3, 9)]),
        ),
        ({"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}, cosine(20)),
        ({"trained_betas": [0.1, 0.2, 0.4]}, products([0.1, 0.2, 0.4])),
    ],
)
def test_a_schedulers_file_is_read(tmp_path, config, expected):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({**config, "prediction_type": "v_prediction"}))
    for path in (file, tmp_path):
        found = NoiseSchedule.of_config(path)
        assert_close(found.alphas_cumprod, expected)
        assert found.prediction == "v_prediction"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no scheduler_config.json of a known"),
        ("{", "no scheduler_config.json of a known"),
        ('{"_class_name": "FlowMatchEulerDiscreteScheduler"}', "beta_schedule is None"),
        ('{"beta_schedule": "linear", "rescale_betas_zero_snr": true}', "zero_snr is true"),
        ('{"beta_schedule": "linear", "num_train_timesteps": "ten"}', "no scheduler_config.json"),
        ('{"beta_schedule": "linear", "num_train_timesteps": 1000000000}', "is 1000000000"),
        ('{"trained_betas": [0.1, "x"]}', "no scheduler_config.json of a known"),
        ('{"beta_schedule": "linear", "prediction_type": "flow"}', "prediction is 'flow'"),
        ('{"trained_betas": [2.0, 3.0]}', "one number from 0 to 1 a timestep"),
    ],
)
def test_another_file_is_refused(tmp_path, text, message):
    file = tmp_path / "scheduler_config.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        NoiseSchedule.of_config(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"scheduler_config\.json"):
        NoiseSchedule.of_config(tmp_path / "no.json")


def test_what_a_model_predicts_gives_the_example_back():
    """x = √ᾱ z - √(1 - ᾱ) v, and so on: the definitions solved for the example."""
    with seeded(91):
        clean, noise = torch.randn(2, 3, 4, dtype=torch.float64).unbind(0)
    timesteps = torch.tensor([0, 4, 9])
    for prediction in ("epsilon", "sample", "v_prediction"):
        schedule = NoiseSchedule.cosine(10, prediction=prediction)
        share = cosine(10)[timesteps].unsqueeze(1)
        noisy = schedule.noisy(clean, noise, timesteps)
        target = schedule.target(clean, noise, timesteps)
        solved = {
            "epsilon": (noisy - (1 - share).sqrt() * target) / share.sqrt(),
            "sample": target,
            "v_prediction": share.sqrt() * noisy - (1 - share).sqrt() * target,
        }
        assert_close(solved[prediction], clean, tolerance=1e-7)


def test_min_snr_weights_are_those_of_a_loss_of_the_example():
    """‖x - x̂‖² is ‖ε - ε̂‖² / SNR and ‖v - v̂‖² / (SNR + 1)."""
    alphas = torch.tensor([0.99, 0.9, 0.5, 0.1], dtype=torch.float64)
    ratio = alphas / (1 - alphas)
    wanted = ratio.clamp(max=5)
    for prediction, factor in (("sample", 1), ("epsilon", ratio), ("v_prediction", ratio + 1)):
        found = NoiseSchedule(alphas, prediction).min_snr_weights(5)
        assert_close(found, wanted / factor)
    ends = torch.tensor([1.0, 0.0])
    assert NoiseSchedule(ends, "epsilon").min_snr_weights(5).tolist() == [0.0, 1.0]
    assert NoiseSchedule(ends, "sample").min_snr_weights(5).tolist() == [5.0, 0.0]
