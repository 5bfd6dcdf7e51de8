"""The team's own nodes: they know nothing of the audit."""

import copy
from typing import Any

import polars as pl
import torch
from torch import nn

from churn.task import FEATURES

CHECKPOINTS = 4
BATCH = 16


def collect_customers(training: dict[str, Any]) -> pl.DataFrame:
    """Draw customers, some of whom are noted as left that stayed, or the other way round."""
    count = training["customers"]
    generator = torch.Generator().manual_seed(training["seed"])
    inputs = torch.randn(count, len(FEATURES), generator=generator)
    left = (inputs @ torch.tensor([1.5, -1.0, 0.5, 2.0]) > 0).long()
    held_out = count // 5
    noted = left.clone()
    wrong = torch.randperm(count - held_out, generator=generator)
    wrong = wrong[: round(training["wrong_labels"] * len(wrong))]
    noted[wrong] = 1 - noted[wrong]
    return pl.DataFrame(inputs.numpy(), schema=FEATURES).with_columns(
        customer=pl.Series([f"customer {number}" for number in range(count)]),
        left=pl.Series(noted.tolist()),
        split=pl.Series(["train"] * (count - held_out) + ["query"] * held_out),
    )


def train_model(customers: pl.DataFrame, training: dict[str, Any]) -> list[dict[str, Any]]:
    """Train with SGD and return a few checkpoints of the training."""
    rows = customers.filter(pl.col("split") == "train")
    inputs = torch.tensor(rows.select(FEATURES).to_numpy(), dtype=torch.float32)
    labels = torch.tensor(rows["left"].to_list())
    generator = torch.Generator().manual_seed(training["seed"])
    with torch.random.fork_rng():
        torch.manual_seed(training["seed"])
        model = nn.Sequential(nn.Linear(len(FEATURES), 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = training["epochs"] * (len(labels) // BATCH)
    wanted = {round(steps * part / CHECKPOINTS) for part in range(1, CHECKPOINTS + 1)}
    checkpoints = []
    for step in range(1, steps + 1):
        batch = torch.randint(len(labels), (BATCH,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        if step in wanted:
            checkpoints.append(
                {
                    "step": step,
                    "model_state_dict": copy.deepcopy(model.state_dict()),
                    "optimizer_state_dict": copy.deepcopy(optimizer.state_dict()),
                }
            )
    return checkpoints
