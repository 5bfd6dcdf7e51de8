"""The counts of the capacity model, and its fit to made-up measurements."""

import pytest
from benchmarks.capacity import DEVICES, MODELS, Model, Size, device_hours, fit_table, mlp

from benchmarks import capacity


def test_a_layer_is_counted_once_for_every_copy():
    one, two = (Model("", [(3, 5, count)], tokens=7) for count in (1, 2))
    assert (one.parameters, one.covariances) == (15, 9 + 25)
    assert one.cubes == 9 * (27 + 125)
    assert two.parameters == 2 * one.parameters
    assert Size(two, 10, 0, 1, 1).multiplications["fitting"] == 10 * 7 * 2 * (3 * 15 + 34)


def test_an_mlp_has_its_biases():
    assert mlp(128).parameters == 785 * 128 + 129 * 64 + 65 * 10


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name[:3])
def test_a_thousand_times_the_examples_take_a_thousand_times_the_passes(model):
    small, large = (device_hours(Size(model, n, 100, 4, 2), DEVICES[0]) for n in (10**6, 10**9))
    assert large["fitting"] == pytest.approx(1000 * small["fitting"])
    assert large["eigenvectors"] == small["eigenvectors"]


def test_what_follows_the_model_is_predicted_without_error():
    points = []
    for examples, width in (*capacity.POINTS, capacity.HELD_OUT):
        size = Size(mlp(width), examples, capacity.QUERIES, 2, 1)
        work = {**size.multiplications}
        work["fitting"] += size.eigenvectors
        seconds = {stage: 0.2 + 1e-5 * 2 * examples + one / 1e10 for stage, one in work.items()}
        points.append({"examples": examples, "width": width, "seconds": seconds})
    table = fit_table({"rate": 2e10, "points": points})
    assert table.count("| 0.20 | 10.0 | 0.50 | 0% |") == 3
    assert table.count("| +0% |") + table.count("| -0% |") == 3


def test_the_predictions_name_models_and_devices():
    table = capacity.predictions()
    assert "70B" in table
    assert "H100" in table
