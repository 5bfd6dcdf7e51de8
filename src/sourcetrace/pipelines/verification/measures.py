"""From retrained outcomes to the trust figure: correlation, noise ceiling, removals, slope."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from torch import Tensor

from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import (
    mean_interval,
    noise_ceiling,
    rank_correlation_interval,
    removal_slope,
    removal_slope_interval,
    split_half_reliability,
)
from sourcetrace.schemas.verification import VerificationRemovals, VerificationSummary


@dataclass(frozen=True)
class Measure:
    """One row of the summary, without what all rows share."""

    measure: str
    value: float
    detail: str
    low: float = math.nan
    high: float = math.nan
    removed: int | None = None

    @classmethod
    def of_removals(cls, removals: pl.DataFrame) -> list[Self]:
        """Return the slope and, a size and kind each, flips and mean changes."""
        if removals.is_empty():
            return []
        predicted, measured = (
            removals[name].to_torch() for name in ("predicted_change", "measured_change")
        )
        clusters = removals["query_id"].rank("dense").cast(pl.Int64).to_torch()
        low, high = removal_slope_interval(predicted, measured, clusters)
        measures = [
            cls(
                "removal_slope",
                removal_slope(predicted, measured),
                "Measured change for each unit of predicted change, through the origin, over "
                f"{removals.height} removals; 1 where scores are in the measurement's units, below "
                "1 where they promise too much. The interval resamples queries.",
                low,
                high,
            )
        ]
        whom = {
            "helpers": "{} of a query's strongest helpers",
            "random": "{} random examples instead, of the same classes",
        }
        for (removed, kind), rows in removals.sort("removed", "kind").group_by(
            "removed", "kind", maintain_order=True
        ):
            without = whom[str(kind)].format(removed)
            for measure, column, what in (
                ("flips", "flipped_share", "Share of predictions that change"),
                ("change", "measured_change", "Mean change of the query's measurement"),
            ):
                values = rows[column].drop_nulls().to_torch()
                if len(values):
                    measures.append(
                        cls(
                            f"{measure}_{kind}",
                            float(values.mean()),
                            f"{what} without {without}.",
                            *mean_interval(values),
                            removed=int(str(removed)),
                        )
                    )
        return measures

    @staticmethod
    def table(measures: Sequence["Measure"], *, method: str, scores_digest: str) -> pl.DataFrame:
        """Return `schemas.VerificationSummary`; what could not be measured is empty."""
        shared = {"method": method, "scores_digest": scores_digest}
        rows = (asdict(one) | shared for one in measures)
        return VerificationSummary.frame(rows).with_columns(
            pl.col("value", "low", "high").fill_nan(None)
        )


@dataclass(frozen=True)
class Retrained:
    """Plan and outcomes as arrays.

    Attributes:
        plan: `schemas.VerificationPlan`, [G] rows.
        predicted: Sum of the scores over what a group leaves out, [G, Q].
        measured: Measurements, [G, seeds, Q].
        labels: Predicted labels, [G, seeds, Q]; None where queries have no classes.
        examples: Training examples in all.
    """

    plan: pl.DataFrame
    predicted: Tensor
    measured: Tensor
    labels: "np.ndarray[Any, Any] | None"
    examples: int

    def rows(self, kind: str) -> list[int]:
        """Return the numbers of the groups of a kind."""
        return self.plan.with_row_index("row").filter(kind=kind)["row"].to_list()

    def removal_table(self, query_ids: pl.Series) -> pl.DataFrame:
        """Return predicted and measured change of every removal; `schemas.VerificationRemovals`."""
        (everything,) = self.rows("all")
        rows = []
        for number in sorted(self.rows("helpers") + self.rows("random")):
            group = self.plan.row(number, named=True)
            query = group["query"]
            # The same seeds on both sides: what they share cancels.
            change = self.measured[number, :, query] - self.measured[everything, :, query]
            flipped = None
            if self.labels is not None:
                labels = self.labels
                flipped = float(np.mean(labels[number, :, query] != labels[everything, :, query]))
            rows.append(
                {
                    "kind": group["kind"],
                    "query_id": query_ids[query],
                    "removed": len(group["removed"]),
                    "predicted_change": float(self.predicted[number, query]),
                    "measured_change": float(change.mean()),
                    "flipped_share": flipped,
                }
            )
        return VerificationRemovals.frame(rows)

    def recipe_measures(self, audited: Tensor) -> list[Measure]:
        """Compare retraining on all examples with the audited model, over queries.

        Args:
            audited: Measurement of each query at the final checkpoint, [Q].
        """
        (row,) = self.rows("all")
        models = self.measured[row]
        seeds = len(models)
        agreement = rank_correlation(models.T, audited.unsqueeze(1).expand(-1, seeds)).mean()
        pairs = [
            float(rank_correlation(models[i].unsqueeze(1), models[j].unsqueeze(1)))
            for i in range(seeds)
            for j in range(i)
        ]
        return [
            Measure(
                "recipe_agreement",
                float(agreement),
                "Rank correlation over queries between the audited model and a retraining on all "
                f"examples. Mean measurement: {audited.mean():.3g} audited, {models.mean():.3g} "
                "self. Where they differ much, train() is not the audited training.",
            ),
            Measure(
                "seed_agreement",
                sum(pairs) / len(pairs) if pairs else math.nan,
                "The same between two retrainings on all examples, which differ by their seed "
                "alone.",
            ),
        ]

    def subset_measures(self) -> tuple[Tensor, list[Measure]]:
        """Return the score of every query [Q], and what all queries together say."""
        rows = self.rows("subset")
        # The prediction for a subset is minus the sum over it: that over the rest, less a constant.
        predicted, measured = self.predicted[rows], self.measured[rows]
        seeds = measured.shape[1]
        means = measured.mean(1)
        per_query = rank_correlation(predicted, means)
        lds = float(per_query.mean())
        low, high = rank_correlation_interval(predicted, means)
        ceiling = noise_ceiling(split_half_reliability(measured.transpose(0, 1)), seeds=seeds)
        removed = self.plan[rows]["removed"].list.len().mean()
        kept = 1 - float(removed) / self.examples  # type: ignore[arg-type]
        share = lds / ceiling if ceiling > 0 else math.nan
        return per_query, [
            Measure(
                "lds",
                lds,
                "Rank correlation between predicted and retrained outcome of a query over the "
                "subsets, mean over queries (linear datamodeling score); 0 is chance.",
                low,
                high,
            ),
            Measure(
                "ceiling",
                ceiling,
                "The most that perfect scores would reach with this much retraining noise, "
                "estimated from how far seeds agree.",
            ),
            Measure(
                "lds_of_ceiling",
                share,
                "The first as a share of the second; the interval leaves out the ceiling's own "
                "error.",
                low / ceiling if ceiling > 0 else math.nan,
                high / ceiling if ceiling > 0 else math.nan,
            ),
            Measure("subsets", len(rows), "Random subsets of the training data, retrained on."),
            Measure("fraction", kept, "Of the training examples in a subset."),
            Measure("seeds", seeds, "Retrainings of each subset and of each removal."),
        ]
