"""What an audit's tables say, as the numbers that checks are about."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.errors import InputError
from sourcetrace.formats import format_noun, safe_text
from sourcetrace.parameters import GateParameters
from sourcetrace.schemas.metric_names import GateMetric
from sourcetrace.schemas.review import is_suspect

_GROUP = 80
"""Characters of a label or slice that a message has room for."""


@dataclass(frozen=True)
class Measured:
    """One metric of an audit.

    Attributes:
        value: The number; None where there is none to have; not finite where measuring failed.
        detail: Where the value comes from, or why there is none; may be empty.
    """

    value: float | None
    detail: str = ""

    @property
    def finite(self) -> float | None:
        """The number, where it is one that a file can hold."""
        return self.value if self.value is not None and math.isfinite(self.value) else None


def measure_audit(
    review_list: pl.DataFrame,
    train_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    verification_summary: pl.DataFrame,
    found: Comparison,
    *,
    verified: bool,
    moved: float,
    gate: GateParameters,
) -> dict[GateMetric, Measured]:
    """Return every number that a check can be about.

    Args:
        review_list: `schemas.ReviewList`.
        train_table: `schemas.TrainTable`, of the same examples.
        query_signals: `schemas.QuerySignals`.
        checkpoint_manifest: `schemas.CheckpointManifest`, in the order of training.
        verification_summary: `schemas.VerificationSummary`; may be empty.
        found: The comparison with the audit before.
        verified: Whether the verification is of the scores that are judged.
        moved: Examples that have come or gone since the curvature was computed, over those of it.
        gate: Which slices there are, and how many examples a concentration takes.

    Raises:
        InputError: If a slice column is not in the training table.
    """
    examples = review_list.height
    suspects = review_list.filter(is_suspect())
    relabel = suspects.filter(pl.col("suggested_action") == "relabel").height
    kept = review_list.filter(decision="keep").height
    without = f"without {format_noun(kept, 'example')} decided to be kept" if kept else ""
    return {
        "harmful_share": Measured(_harmful_share(review_list), without),
        "relabel_share": Measured(relabel / examples, without),
        "unstable_share": _unstable_share(suspects),
        "class_concentration": _class_concentration(review_list, gate.group_minimum),
        "slice_concentration": _slice_concentration(review_list, train_table, gate),
        "attributed_share": Measured(float(checkpoint_manifest["attributed_share"][-1])),
        "mean_query_loss": Measured(query_signals.select(pl.col("loss").mean()).item()),
        "training_examples": Measured(float(examples)),
        "curvature_moved_share": Measured(moved),
        **_measure_trust(verification_summary, current=verified),
        **_measure_comparison(found),
    }


def _measure_trust(
    verification_summary: pl.DataFrame, *, current: bool
) -> dict[GateMetric, Measured]:
    """Return the metrics of trust: numbers only where these very scores were verified.

    What a verification could not measure is NaN, not missing: it must not pass for unknown.

    Args:
        verification_summary: `schemas.VerificationSummary`; may be empty.
        current: Whether it is of the scores that are judged.
    """
    if not current:
        why = (
            "no retraining has tested these scores"
            if verification_summary.is_empty()
            else "the last verification was of other scores"
        )
        names: tuple[GateMetric, ...] = ("trust_lds", "trust_lds_low", "trust_lds_of_ceiling")
        return {"trust_verified": Measured(0.0, why), **dict.fromkeys(names, Measured(None, why))}
    return {
        "trust_verified": Measured(1.0),
        "trust_lds": _of_summary(verification_summary, "lds", "value"),
        "trust_lds_low": _of_summary(verification_summary, "lds", "low"),
        "trust_lds_of_ceiling": _of_summary(verification_summary, "lds_of_ceiling", "value"),
    }


def _measure_comparison(found: Comparison) -> dict[GateMetric, Measured]:
    """Return the metrics of a comparison; those of a first audit have no value, and say why."""
    names: tuple[GateMetric, ...] = (
        "new_suspect_share",
        "persisting_suspect_share",
        "score_rank_correlation",
        "curvature_distance",
        "changed_example_share",
    )
    if found.previous_at is None:
        return {name: Measured(None, "there is no earlier audit to compare with") for name in names}
    examples, data, layers = found.training_examples, found.data, found.curvature.layers
    correlation = found.scores.rank_correlation
    why = (
        f"there are {found.scores.examples} unchanged examples, with no order to compare"
        if correlation is None
        else ""
    )
    changed = data.added + data.removed + data.relabelled + data.edited
    values = (
        Measured(found.suspects.new / examples),
        Measured(found.suspects.persisting / examples),
        Measured(correlation, why),
        Measured(layers[0].distance, f"layer {layers[0].layer}")
        if layers
        else Measured(None, "the audits have no layer's curvature in common"),
        Measured(changed / (examples + data.removed)),
    )
    return dict(zip(names, values, strict=True))


def _concentration(groups: pl.DataFrame, *, group_minimum: int) -> tuple[float, str] | None:
    """Return how much more harm the worst group has than its size explains, and which it is.

    The ratio of the group's share of all harm above 0 to its share of the examples, the largest
    over the groups with at least `group_minimum` examples. Small groups are left out because one
    harmful example among three says nothing of a group. None where no group is large enough, or
    nothing harms.

    Args:
        groups: Columns `group` (text) and `harm`, a row an example; rows without a group count
            for the totals.
        group_minimum: At least 1.
    """
    harm = pl.col("harm").clip(lower_bound=0.0)
    total = groups.select(harm.sum()).item()
    # NaN included: harmful_share reports harm that is no number.
    if not total > 0:
        return None
    sums = (
        groups.filter(pl.col("group").is_not_null())
        .group_by("group")
        .agg(examples=pl.len(), harm=harm.sum())
        .filter(pl.col("examples") >= group_minimum)
        .with_columns(ratio=(pl.col("harm") / total) / (pl.col("examples") / groups.height))
        # Names break ties, so that the same tables name the same group.
        .sort(["ratio", "group"], descending=[True, False])
    )
    if sums.is_empty():
        return None
    row = sums.row(0, named=True)
    return float(row["ratio"]), safe_text(str(row["group"]), _GROUP)


def _harmful_share(review_list: pl.DataFrame) -> float:
    """Return the share of examples that a user can act on: harm above 0, the sign certain.

    What somebody decided to keep is left out. Suspects are chosen by their labels, and this is
    about what removals do; noise around 0 does not move it.
    """
    if not review_list["harm"].is_finite().all():
        return math.nan
    harmful = (pl.col("harm") > 0) & pl.col("sign_stable")
    return float(
        review_list.select((harmful & pl.col("decision").ne_missing("keep")).mean()).item()
    )


def _unstable_share(suspects: pl.DataFrame) -> Measured:
    if suspects.is_empty():
        return Measured(None, "there are no suspects")
    return Measured(suspects.filter(~pl.col("sign_stable")).height / suspects.height)


def _class_concentration(review_list: pl.DataFrame, group_minimum: int) -> Measured:
    # A regression's target is no class.
    if review_list["given_label_probability"].is_null().all():
        return Measured(None, "the task has no classes")
    groups = {"label": review_list.select("harm", group="given_label")}
    return _worst_concentration("label", groups, group_minimum)


def _slice_concentration(
    review_list: pl.DataFrame, train_table: pl.DataFrame, gate: GateParameters
) -> Measured:
    if not gate.slice_columns:
        return Measured(None, "gate.slice_columns names none")
    slices = {}
    for column in gate.slice_columns:
        if column not in train_table.columns:
            raise InputError(
                f"gate.slice_columns names {column!r}, which the training table does not have. "
                f"It has {', '.join(train_table.columns)}."
            )
        values = train_table.select("example_id", group=column)
        if isinstance(values.schema["group"], pl.List):
            values = values.explode("group")
        slices[column] = values.with_columns(pl.col("group").cast(pl.String)).join(
            review_list.select("example_id", "harm"), on="example_id", how="inner"
        )
    return _worst_concentration("slice", slices, gate.group_minimum)


def _worst_concentration(
    kind: str, groups: Mapping[str, pl.DataFrame], group_minimum: int
) -> Measured:
    found = [
        (*worst, name)
        for name, one in groups.items()
        if (worst := _concentration(one, group_minimum=group_minimum)) is not None
    ]
    if not found:
        return Measured(None, f"nothing harms, or no {kind} has {group_minimum} examples")
    ratio, group, name = max(found, key=lambda one: one[0])
    return Measured(ratio, f"{name} {group}")


def _of_summary(summary: pl.DataFrame, measure: str, column: str) -> Measured:
    values = summary.filter(measure=measure)[column].to_list()
    if not values or values[0] is None:
        return Measured(math.nan, "the verification could not measure it")
    return Measured(float(values[0]))
