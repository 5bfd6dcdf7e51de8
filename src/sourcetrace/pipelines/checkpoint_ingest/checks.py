"""The checks of the ingest; each refusal says what to change."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from torch import nn

from sourcetrace.core.capture import per_example_loss
from sourcetrace.core.errors import InputError
from sourcetrace.core.examples import Examples
from sourcetrace.core.layers import Coverage
from sourcetrace.core.objective import ExampleGenerator
from sourcetrace.datasets.checkpoints import Checkpoint
from sourcetrace.pipelines.audit_setup import coverage_of
from sourcetrace.pipelines.device import pick_device
from sourcetrace.tasks import Task

_NAMED = 5
"""Offending names listed in a message."""


def check_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Refuse weights that do not fit the model, or are not finite.

    Raises:
        InputError: Naming the keys.
    """
    expected = model.state_dict()
    state = checkpoint.state_dict
    problems = []
    if missing := [key for key in expected if key not in state]:
        problems.append(f"missing: {_some(missing)}")
    if unexpected := [key for key in state if key not in expected]:
        problems.append(f"unexpected: {_some(unexpected)}")
    wrong = [
        f"{key} {list(state[key].shape)}, the model has {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if wrong:
        problems.append(f"other shapes: {_some(wrong)}")
    if problems:
        raise InputError(
            f"{checkpoint.file} does not fit the model that the task builds ({'; '.join(problems)})"
            ". Let build_model() return the architecture that was trained, or correct "
            "checkpoints.path."
        )
    infinite = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if infinite:
        raise InputError(
            f"{checkpoint.file} holds NaN or infinite weights ({_some(infinite)}): training had "
            "diverged. Remove this checkpoint and the ones after it, or train with a lower "
            "learning rate."
        )


def train_table(task: Task, stages: Sequence[str]) -> pl.DataFrame:
    """Return the checked training table, with its stage column filled."""
    table = _example_table(task.train_table(), task.train_examples(), "train")
    names = list(dict.fromkeys(stages))
    if "stage" not in table.columns:
        if len(names) > 1:
            raise InputError(
                f"The checkpoints have stages {', '.join(names)}, but train_table() has no "
                "'stage' column: it must say which stage each training example belongs to."
            )
        return table.with_columns(stage=pl.lit(names[0]))
    table = table.with_columns(pl.col("stage").cast(pl.String))
    unknown = table.filter(~pl.col("stage").is_in(names) | pl.col("stage").is_null())
    if unknown.height:
        found = ", ".join(map(repr, unknown["stage"].unique().sort().to_list()[:_NAMED]))
        raise InputError(
            f"train_table() puts {unknown.height} examples into stage {found}, but the "
            f"checkpoints have {', '.join(names)}. Use the same names in both."
        )
    return table


def query_table(task: Task) -> pl.DataFrame:
    """Return the checked query table."""
    return _example_table(task.query_table(), task.query_examples(), "query")


def _example_table(given: object, items: Any, side: str) -> pl.DataFrame:
    name = f"{side}_table()"
    if not isinstance(given, pl.DataFrame):
        raise InputError(f"{name} returned {type(given).__name__}; expected a polars DataFrame.")
    table = given
    if "example_id" not in table.columns:
        raise InputError(
            f"{name} has no column 'example_id' (columns: {', '.join(table.columns)}). Add one "
            "with a unique name for every example."
        )
    if table.height != len(items):
        raise InputError(
            f"{name} has {table.height} rows, but {side}_examples() has {len(items)} examples. "
            "Return one row an example, in the same order."
        )
    if table.height == 0:
        raise InputError(f"{name} is empty: expected at least one example.")
    table = table.with_columns(pl.col("example_id").cast(pl.String))
    if table["example_id"].null_count():
        raise InputError(f"{name}: example_id has empty values; give every example a name.")
    repeated = table["example_id"].filter(table["example_id"].is_duplicated()).unique().sort()
    if len(repeated):
        raise InputError(
            f"{name}: {len(repeated)} values of example_id occur more than once, such as "
            f"{_some(repeated.to_list())}. Give every example its own."
        )
    label = pl.col("label").cast(pl.String) if "label" in table.columns else pl.lit(None)
    return table.with_columns(label=label.cast(pl.String))


def try_losses(
    task: Task,
    checkpoint: Checkpoint,
    train: pl.DataFrame,
    queries: pl.DataFrame,
    device_name: str,
) -> Coverage:
    """Run two examples of each side through the model and every loss; return the coverage."""
    device = pick_device(device_name)
    model = task.build_model().to(device)
    model.load_state_dict(dict(checkpoint.state_dict))
    model.eval()
    sides = (
        Examples(task.train_examples(), train["example_id"].to_list(), task.collate),
        Examples(task.query_examples(), queries["example_id"].to_list(), task.collate),
    )
    for examples in sides:
        index = range(min(2, len(examples)))
        batch = examples.batch(index, device)
        with torch.no_grad():
            outputs = task.forward(model, batch)
            generator = ExampleGenerator.for_examples(
                examples.seeds(index, seed=0, purpose="check")
            )
            losses = {
                "train_loss": task.train_loss(outputs, batch),
                "sampled_loss": task.sampled_loss(outputs, generator),
                "measurement": task.measurement(outputs, batch),
            }
        for name, loss in losses.items():
            per_example_loss(loss, name=name, examples=len(index))
            if not bool(loss.isfinite().all()):
                raise InputError(
                    f"{name} is NaN or infinite for the first examples at {checkpoint.file}. "
                    "Check the data for missing values and the loss for log(0)."
                )
    return coverage_of(task, model, sides[0], device)


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_NAMED]))
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
