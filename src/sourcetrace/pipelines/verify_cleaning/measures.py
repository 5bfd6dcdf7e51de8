"""Gains of a retraining over another, paired by their seeds."""

import polars as pl
import torch
from torch import Tensor

from sourcetrace.core.statistics.retraining import paired_interval
from sourcetrace.reporting.cleaning import CleaningGain
from sourcetrace.schemas.examples import label_text


def measured_gains(
    outcomes: pl.DataFrame, labels: pl.Series | None, *, sign: int
) -> tuple[CleaningGain, ...]:
    """Return the gain in the mean measurement, and in accuracy and mean loss where known.

    Args:
        outcomes: `schemas.VerificationOutcomes` of a `schemas.CleaningPlan`.
        labels: Of what was measured, for the accuracy; None where they are no classes.
        sign: 1 where a higher measurement is better, else -1.
    """
    wanted = [None] if labels is None else label_text(labels).to_list()
    values = {"measurement": (outcomes["measurements"].list.mean(), sign)}
    if outcomes["predicted_labels"].null_count() == 0 and None not in wanted:
        right = [
            sum(map(str.__eq__, predicted, wanted)) / len(wanted)
            for predicted in outcomes["predicted_labels"].to_list()
        ]
        values["accuracy"] = (pl.Series(right), 1)
    if outcomes["losses"].null_count() == 0:
        values["loss"] = (outcomes["losses"].list.mean(), -1)
    kinds = outcomes["group"].str.split("-").list.first()
    rows = pl.DataFrame({"kind": kinds, "seed": outcomes["seed"]})
    return tuple(
        _gain(measure, rows.with_columns(value=value), sign)
        for measure, (value, sign) in values.items()
    )


def _gain(measure: str, rows: pl.DataFrame, sign: int) -> CleaningGain:
    """Return the gain in one measure, of rows `kind`, `seed` and `value`."""
    by_seed = rows.group_by("kind", "seed").agg(pl.col("value").mean()).sort("seed")
    of = {str(kind): part["value"].to_torch() for (kind,), part in by_seed.group_by("kind")}
    before, after = of["all"], of["cleaned"]
    random, over = of.get("random"), None
    gain, *ends = _paired(sign * (after - before))
    if random is not None:
        over = _paired(sign * (after - random))
    return CleaningGain(
        measure=measure,
        before=float(before.mean()),
        after=float(after.mean()),
        gain=gain,
        low=ends[0],
        high=ends[1],
        random=None if random is None else float(sign * (random - before).mean()),
        over_random=None if over is None else over[0],
        over_random_low=None if over is None else over[1],
        over_random_high=None if over is None else over[2],
    )


def _paired(differences: Tensor) -> tuple[float, float, float]:
    """Return the mean and its interval."""
    return float(differences.mean()), *paired_interval(differences.to(torch.float64))
