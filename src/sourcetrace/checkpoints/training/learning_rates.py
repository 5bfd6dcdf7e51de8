"""A CSV file with the learning rates of a training run."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

import polars as pl
import torch

from sourcetrace.core.training.schedules import KnownRates
from sourcetrace.errors import InputError


def read_learning_rates(path: Path, *, last_step: int) -> KnownRates:
    """Read columns step, learning_rate and, if wanted, group (from 0).

    A rate holds from its step, the first of the training being 1, up to the next one listed; a last
    row without a rate says that nothing is known from its step on.

    Args:
        path: The file.
        last_step: Rates are returned up to this step, or as far as they are known.

    Raises:
        InputError: If it is missing, has other columns, or does not begin with step 1.
    """
    try:
        table = pl.read_csv(_text(path).encode())
    except FileNotFoundError as error:
        raise InputError(
            f"checkpoints.learning_rates: there is no file {str(path)!r}. Correct the path, or "
            "set it to null."
        ) from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path.name} cannot be read as CSV: {error}.") from error
    columns = set(table.columns)
    if not {"step", "learning_rate"} <= columns <= {"step", "learning_rate", "group"}:
        raise InputError(
            f"{path.name} has columns {', '.join(table.columns)}; expected step, learning_rate "
            "and, where parameter groups differ, group."
        )
    if "group" not in columns:
        table = table.with_columns(group=pl.lit(0))
    numbers = sorted(table["group"].unique().to_list())
    if numbers != list(range(len(numbers))):
        raise InputError(
            f"{path.name} has groups {', '.join(map(str, numbers))}; expected 0, 1, … in the "
            "order of the optimiser's parameter groups."
        )
    end = table["step"].max()
    is_open = table.filter(pl.col("step") == end)["learning_rate"].null_count() > 0
    if is_open and isinstance(end, int) and end > 1:
        table, last_step = table.filter(pl.col("step") < end), min(last_step, end - 1)
    return _held(path.name, table, groups=len(numbers), last_step=last_step)


def _text(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without its mark
        raise InputError(
            f"{path.name} is no text in UTF-8, or in UTF-16 with a byte order mark. Save it as CSV "
            "in UTF-8."
        )
    return text


def _held(name: str, table: pl.DataFrame, *, groups: int, last_step: int) -> KnownRates:
    rates = torch.empty(last_step, groups, dtype=torch.float64)
    for (group,), rows in table.sort("group", "step").group_by("group", maintain_order=True):
        try:
            steps = torch.tensor(rows["step"].to_list(), dtype=torch.long)
            values = torch.tensor(rows["learning_rate"].to_list(), dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}: step must be whole numbers and learning_rate numbers, none empty."
            ) from error
        if int(steps[0]) > 1 or bool((steps[1:] == steps[:-1]).any()):
            raise InputError(
                f"{name}: expected rows from step 1 on, each step once; found "
                f"{len(steps)} rows that begin with step {int(steps[0])}. Steps count over the "
                "whole training."
            )
        if not bool((values.isfinite() & (values >= 0)).all()):
            raise InputError(f"{name}: a learning rate is negative or not finite.")
        row = torch.searchsorted(steps, torch.arange(1, last_step + 1), right=True) - 1
        rates[:, int(str(group))] = values[row]
    return KnownRates(1, rates, "recorded", name)
