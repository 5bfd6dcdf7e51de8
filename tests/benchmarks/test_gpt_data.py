import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.gpt_data import FirstStage, read_first_stage
from transformers import get_linear_schedule_with_warmup


@pytest.fixture
def stage(tmp_path: Path) -> FirstStage:
    recipe = {"stages": [{"name": "first", "count": 5, "lr": 0.1}, {"name": "second", "count": 2}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    np.savez(tmp_path / "data.npz", train_tokens=np.ones((7, 3)), query_tokens=np.ones((2, 3)))
    for step in (9, 14, 23):
        (tmp_path / "checkpoints" / "run0" / "first" / f"checkpoint-{step}").mkdir(parents=True)
    return read_first_stage(tmp_path)


def test_a_stage_has_its_own_sequences_and_its_checkpoints_in_order(stage: FirstStage) -> None:
    assert stage.train_tokens.shape == (5, 3)
    assert [one.name.split("-")[1] for one in stage.checkpoints] == ["9", "14", "23"]


def test_learning_rates_are_those_of_the_schedule(stage: FirstStage) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = get_linear_schedule_with_warmup(optimizer, 3, 23)
    expected = []
    for _ in range(23):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert stage.learning_rates() == pytest.approx(expected)
    shares = stage.segments()
    assert [steps for _, steps in shares] == [9, 5, 9]
    assert sum(rate * steps for rate, steps in shares) == pytest.approx(sum(expected))
