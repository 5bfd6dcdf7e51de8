"""The example of docs/reference/diffusion.md, audited as it stands there."""

import json
import re

import numpy as np
import polars as pl
import pytest
import torch

from tests import REPOSITORY
from tests.test_commands import kedro, make_project
from tests.tiny import state_of

pytestmark = pytest.mark.slow

BLOCKS = re.findall(
    r"```(?:python|yaml)\n# ([\w./]+)[^\n]*\n(.*?)```",
    (REPOSITORY / "docs/reference/diffusion.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
DENOISER = """
import torch
from torch import nn

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, noisy, timesteps):
        time = (timesteps / 20).to(noisy)[:, None, None, None].expand_as(noisy)
        return self.out(self.conv(torch.cat([noisy, time], 1)).relu())
"""


@pytest.fixture
def project(tmp_path):
    folder = make_project(tmp_path / "a project")
    for name, text in [*BLOCKS, ("denoiser.py", DENOISER)]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    config = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
    checkpoints = folder / "data/06_models/scans/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints.parent / "scheduler_config.json").write_text(json.dumps(config))
    raw = folder / "data/01_raw"
    raw.mkdir()
    stream = np.random.default_rng(0)
    for side, count in (("train", 12), ("queries", 4)):
        scans = stream.standard_normal((count, 1, 6, 6)).astype("float32")
        np.savez(raw / f"{side}.npz", inputs=scans)
    names: dict[str, type[torch.nn.Module]] = {}
    exec(DENOISER, names)
    model = names["Denoiser"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in (1, 2):
        torch.autograd.backward(model(torch.ones(1, 1, 6, 6), torch.tensor([5])).square().mean())
        optimizer.step()
        torch.save(state_of(step, model, optimizer), checkpoints / f"{step}.pt")
    return folder


def test_the_page_has_the_whole_of_it(project):
    assert sum(len(text.splitlines()) for _, text in BLOCKS if "class Scans" in text) <= 12
    run = kedro(project, "run", "--pipelines", "audit", "--env", "scans")
    assert run.returncode == 0, run.stderr[-3000:]
    review = pl.read_parquet(project / "data/08_reporting/review_list.parquet")
    assert review.height == 12
    assert review["harm"].is_finite().all()
