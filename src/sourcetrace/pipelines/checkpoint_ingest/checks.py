"""The checks of the ingest; each refusal says what to change."""

import traceback
from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from torch import nn

from sourcetrace.audit.identity.data_digest import split_label
from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.gradients.check import check_gradients
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.rehearsal import refuse_compiled
from sourcetrace.core.model.dropout import dropout_mask
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.set_up import coverage_of
from sourcetrace.schemas.examples import label_text
from sourcetrace.tasks import ClassificationTask, Task

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
    """Return the checked training table; its stage column lists each example's stages."""
    table = _example_table(task.train_table(), task.train_examples(), "train")
    names = list(dict.fromkeys(stages))
    if "stage" not in table.columns:
        if len(names) > 1:
            raise InputError(
                f"The checkpoints have stages {', '.join(names)}, but train_table() has no "
                "'stage' column: it must say which stage each training example belongs to."
            )
        return table.with_columns(stage=pl.lit([names[0]], dtype=pl.List(pl.String)))
    return table.with_columns(stage=_stage_lists(table["stage"], names))


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
    if "label" not in table.columns:
        return table.with_columns(label=pl.lit(None, dtype=pl.String))
    return table.with_columns(label=label_text(table["label"]))


def _stage_lists(given: pl.Series, names: Sequence[str]) -> pl.Series:
    """Return the stages of every example as a list, in the order of training.

    Args:
        given: A name, or a list of names, an example.
        names: The stages of the checkpoints, in the order of training.

    Raises:
        InputError: If an example belongs to no stage, to one twice, or to one that the
            checkpoints do not have.
    """
    lists = _as_lists(given)
    examples = pl.DataFrame({"stages": lists})
    empty = examples.filter(pl.col("stages").list.len().fill_null(0) == 0)
    if empty.height:
        raise InputError(
            f"train_table() puts {empty.height} examples into no stage: their 'stage' is empty. "
            f"Give each a stage of the checkpoints ({', '.join(names)}), or leave examples out "
            "that no stage trained on."
        )
    unknown = examples.filter(
        pl.col("stages")
        .list.eval(~pl.element().is_in(list(names)).fill_null(value=False))
        .list.any()
    )
    if unknown.height:
        found = unknown["stages"].explode().unique()
        strange = found.filter(~found.is_in(list(names)).fill_null(value=False)).sort()
        raise InputError(
            f"train_table() puts {unknown.height} examples into stage "
            f"{', '.join(map(repr, strange.to_list()[:_NAMED]))}, but the checkpoints have "
            f"{', '.join(names)}. Use the same names in both."
        )
    repeated = examples.filter(pl.col("stages").list.n_unique() < pl.col("stages").list.len())
    if repeated.height:
        raise InputError(
            f"train_table() puts {repeated.height} examples into a stage twice, such as "
            f"{repeated['stages'][0].to_list()}. Name every stage once: how often a stage visits "
            "its examples is in its steps."
        )
    # The order of training, whatever order they were given in.
    place = {name: index for index, name in enumerate(names)}
    ordered = examples.select(
        pl.col("stages")
        .list.eval(pl.element().sort_by(pl.element().replace_strict(place, return_dtype=pl.Int64)))
        .alias("stage")
    )
    return ordered["stage"]


def _as_lists(given: pl.Series) -> pl.Series:
    if isinstance(given.dtype, pl.List | pl.Array):
        return given.cast(pl.List(pl.String))
    names = given.cast(pl.String).alias("name").to_frame()
    return names.select(pl.concat_list("name").list.drop_nulls())["name"]


def check_labels(task: Task, table: pl.DataFrame, side: str) -> None:
    """Refuse labels that are never what the model's predictions are called.

    Raises:
        InputError: If a classification task's table uses other names than the model.
    """
    if not isinstance(task, ClassificationTask):
        return
    names = task.label_names
    known = table["label"].is_in(list(names)) if names else table["label"].str.contains(r"^\d+$")
    strange = table["label"].filter(~known.fill_null(value=True)).unique().sort()
    if len(strange):
        expected = ", ".join(map(repr, names)) if names else "the classes' numbers"
        raise InputError(
            f"{side}_table() has labels such as {_some(strange.to_list())}, but the model's "
            f"predictions are called {expected}. Set label_names on the task to the names in "
            "the order of the logits."
        )


class LabelCheck:
    """Holds the labels of a table against those of the data set, example by example.

    Args:
        task: The task; only a classification's labels are looked at.
        table: The checked table.
        side: `train` or `query`.
    """

    def __init__(self, task: Task, table: pl.DataFrame, side: str) -> None:
        self._task, self._table, self._side = task, table, side
        self._found: list[str | None] = []

    def see(self, item: Any) -> None:
        """Take note of the next example."""
        self._found.append(self._label_of(split_label(item)[1]))

    def check(self) -> None:
        """Refuse a table that is in another order, or says other labels.

        Raises:
            InputError: Naming the rows.
        """
        if len(self._found) != self._table.height:  # examples without content to speak of
            return
        table = self._table.with_columns(found=pl.Series(self._found, dtype=pl.String))
        wrong = table.filter(pl.col("label") != pl.col("found"))
        if wrong.height:
            name, label, found = wrong.select("example_id", "label", "found").row(0)
            raise InputError(
                f"{self._side}_table(): the label is not the data set's in {wrong.height} of "
                f"{table.height} rows ({_some(wrong['example_id'].to_list())}): {name!r} has "
                f"{label!r} in the table, {found!r} in the data set. Return one row an example, in "
                "the order of the data set."
            )

    def _label_of(self, target: Any) -> str | None:
        if not isinstance(self._task, ClassificationTask):
            return None
        if getattr(target, "ndim", None) == 0:
            target = target.item()
        if not isinstance(target, int):
            return None
        names = self._task.label_names
        if names is None:
            return str(int(target))
        return names[target] if 0 <= target < len(names) else None


def try_losses(
    task: Task,
    checkpoint: Checkpoint,
    train: pl.DataFrame,
    queries: pl.DataFrame,
    device_name: str,
    segments: Sequence[Segment],
    *,
    dropout_masks: int = 0,
) -> Coverage:
    """Run two examples of each side through the model and every loss; return the coverage."""
    device = pick_device(device_name)
    model = task.build_model().to(device)
    refuse_compiled(model.named_modules())  # before a forward pass would compile it
    model.load_state_dict(dict(checkpoint.state_dict))
    model.eval()
    sides = (
        Examples(task.train_examples(), train["example_id"].to_list(), task.collate),
        Examples(task.query_examples(), queries["example_id"].to_list(), task.collate),
    )
    for examples in sides:
        index = range(min(2, len(examples)))
        batch = examples.batch(index, device)
        generator = ExampleGenerator.for_examples(examples.seeds(index, seed=0, purpose="check"))
        mask = dropout_mask(model, min(dropout_masks, 1), seed=0, examples=len(index))
        with torch.no_grad(), mask:
            outputs = _call(task, "forward", model, batch)
        for name, arguments in (
            ("train_loss", (outputs, batch)),
            ("sampled_loss", (outputs, generator)),
            ("measurement", (outputs, batch)),
        ):
            with torch.no_grad():
                loss = _call(task, name, *arguments)
            per_example_loss(loss, name=name, examples=len(index))
            if not bool(loss.isfinite().all()):
                raise InputError(
                    f"{name} is NaN or infinite for the first examples at {checkpoint.file}. "
                    "Check the data for missing values and the loss for log(0)."
                )
    coverage = coverage_of(task, model, sides[0], device, segments)
    count = min(2, len(sides[0]))
    batch = sides[0].batch(range(count), device)
    check_gradients(
        model,
        coverage,
        lambda: task.forward(model, batch),
        lambda outputs: task.train_loss(outputs, batch),
        examples=count,
    )
    return coverage


def _call(task: Task, name: str, *arguments: Any) -> Any:
    """Call a part of the task; say where in the user's code it failed."""
    try:
        return getattr(task, name)(*arguments)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"task.{name} failed on the first examples: {type(error).__name__}: {error} "
            f"({at.filename}, line {at.lineno}). A usual cause: inputs of another dtype than the "
            "model's weights, or a batch that is not (inputs, targets)."
        ) from error


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_NAMED]))
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
