"""The demo's data and its plain PyTorch training loop."""

import copy
import logging
from dataclasses import fields
from typing import Any

import numpy as np
import polars as pl
import torch
from kedro.pipeline import Pipeline
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from sourcetrace.audit.identity.data_digest import data_digest
from sourcetrace.parameters import DemoParameters
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.examples import DigitsTrainingSet, PlantedLabelErrors
from sourcetrace.tasks import SGDRecipe, train_with_sgd
from sourcetrace.tasks.digits import DigitsTask

logger = logging.getLogger(__name__)


def plant_label_errors(demo: DemoParameters) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Split scikit-learn's digits and exchange the labels of some training scans.

    Returns:
        digits_training_set, digits_query_set, and planted_label_errors, which the audit
        never reads.
    """
    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    train, held_out = train_test_split(
        np.arange(len(pixels)),
        test_size=demo.query_share,
        stratify=digits.target,
        random_state=demo.seed,
    )
    random = np.random.default_rng(demo.seed)
    wrong = random.choice(len(train), round(demo.error_share * len(train)), replace=False)
    labels = digits.target[train].copy()
    # 1 to 9 steps further round the ten classes: any class but the true one, each alike.
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    ids = np.array([f"digit-{index:04d}" for index in range(len(pixels))])

    def table(rows: Any, given: Any) -> pl.DataFrame:
        return pl.DataFrame(
            {"example_id": ids[rows].tolist(), "pixels": pixels[rows], "label": given.tolist()},
            schema_overrides=DigitsTrainingSet.columns(),
        )

    planted = PlantedLabelErrors.frame(
        zip(ids[train[wrong]].tolist(), digits.target[train[wrong]], labels[wrong], strict=True)
    )
    logger.info("Planted %d wrong labels among %d training scans", len(wrong), len(train))
    return table(train, labels), table(held_out, digits.target[held_out]), planted


def train_network(
    digits_training_set: pl.DataFrame, digits_query_set: pl.DataFrame, demo: DemoParameters
) -> tuple[list[dict[str, Any]], Any, dict[str, Any], dict[str, Any], str]:
    """Train the network with SGD and momentum, saving checkpoints on the way.

    Returns:
        The checkpoints, the trained model with an example of its input, the recipe, metrics, and
        the digest of the training data, for audits to compare theirs with.
    """
    task = DigitsTask(digits_training_set, digits_query_set)
    recipe = demo.model_dump(include={field.name for field in fields(SGDRecipe)})
    steps = demo.epochs * (digits_training_set.height // demo.batch_size)
    wanted = {round(steps * i / demo.checkpoints) for i in range(1, demo.checkpoints + 1)}
    checkpoints = []
    progress = track(range(steps), "Training the network")

    def keep(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        next(progress)
        if step in wanted:
            checkpoints.append(
                {
                    "step": step,
                    "model_state_dict": copy.deepcopy(model.state_dict()),
                    "optimizer_state_dict": copy.deepcopy(optimizer.state_dict()),
                }
            )

    examples = range(digits_training_set.height)
    model = train_with_sgd(task, examples, SGDRecipe(**recipe), seed=demo.seed, after_step=keep)
    next(progress, None)  # so that the bar ends
    inputs, labels = task.train_examples().tensors
    query_inputs, query_labels = task.query_examples().tensors
    with torch.no_grad():
        metrics = {
            "training_accuracy": _accuracy(model(inputs), labels),
            "query_accuracy": _accuracy(model(query_inputs), query_labels),
        }
    logger.info(
        "Trained %d steps; accuracy on held-out scans %.1f %%",
        steps,
        100 * metrics["query_accuracy"],
    )
    digest = data_digest(task.train_examples(), task.train_table())
    return (
        checkpoints,
        (model, inputs[:2].numpy()),
        recipe,
        logged(metrics, step=steps),
        digest,
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(-1) == labels).double().mean())


PIPELINE = Pipeline(
    [
        step(
            plant_label_errors,
            ["digits_training_set", "digits_query_set", "planted_label_errors"],
        ),
        step(
            train_network,
            [
                "checkpoints",
                "demo_model",
                "digits_recipe",
                "demo_training_metrics",
                "trained_data_digest",
            ],
        ),
    ]
)
