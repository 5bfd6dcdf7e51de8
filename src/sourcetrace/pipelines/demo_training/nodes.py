"""The demo's data and its plain PyTorch training loop."""

import logging
from typing import Any

import polars as pl

from sourcetrace.parameters import DemoParameters

logger = logging.getLogger(__name__)


def plant_label_errors(demo: DemoParameters) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Split scikit-learn's digits and exchange the labels of some training scans.

    Returns:
        digits_training_set, digits_query_set, and planted_label_errors, which the audit
        never reads.
    """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

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
            schema_overrides={"pixels": pl.Array(pl.Float32, 64), "label": pl.Int64},
        )

    planted = pl.DataFrame(
        {
            "example_id": ids[train[wrong]].tolist(),
            "true_label": digits.target[train[wrong]].tolist(),
            "planted_label": labels[wrong].tolist(),
        }
    )
    logger.info("Planted %d wrong labels among %d training scans", len(wrong), len(train))
    return table(train, labels), table(held_out, digits.target[held_out]), planted


def train_network(
    training_set: pl.DataFrame, query_set: pl.DataFrame, demo: DemoParameters
) -> tuple[list[dict[str, Any]], Any, dict[str, Any]]:
    """Train the network with SGD and momentum, saving checkpoints on the way.

    Returns:
        The checkpoints, the trained model with an example of its input, and metrics.
    """
    import copy

    import torch
    import torch.nn.functional as F  # noqa: N812, the name everybody reads

    from sourcetrace.tasks.digits import digits_network, scans

    generator = torch.Generator().manual_seed(demo.seed)
    with torch.random.fork_rng():
        torch.manual_seed(demo.seed)
        model = digits_network()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=demo.learning_rate,
        momentum=demo.momentum,
        weight_decay=demo.weight_decay,
    )
    inputs, labels = scans(training_set).tensors
    steps_per_epoch = len(inputs) // demo.batch_size
    total_steps = demo.epochs * steps_per_epoch
    wanted = {round(total_steps * i / demo.checkpoints) for i in range(1, demo.checkpoints + 1)}
    checkpoints = []
    step = 0
    for _ in range(demo.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for index in torch.split(order[: steps_per_epoch * demo.batch_size], demo.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[index]), labels[index])
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
            if step in wanted:
                checkpoints.append(
                    {
                        "step": step,
                        "model_state_dict": copy.deepcopy(model.state_dict()),
                        "optimizer_state_dict": copy.deepcopy(optimizer.state_dict()),
                    }
                )
    model.eval()
    query_inputs, query_labels = scans(query_set).tensors
    with torch.no_grad():
        metrics = {
            "training_accuracy": _accuracy(model(inputs), labels),
            "query_accuracy": _accuracy(model(query_inputs), query_labels),
        }
    logger.info(
        "Trained %d steps; accuracy on held-out scans %.1f %%",
        step,
        100 * metrics["query_accuracy"],
    )
    logged = {name: {"value": value, "step": step} for name, value in metrics.items()}
    return checkpoints, (model, inputs[:2].numpy()), logged


def _accuracy(logits: Any, labels: Any) -> float:
    return float((logits.argmax(-1) == labels).double().mean())
