"""Example tables for the page, with made-up scores: small, of any size, and with gaps."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.reporting.changes import ComparedAudit
from sourcetrace.reporting.page import PageContent
from sourcetrace.reporting.records import AuditSummary, GroundTruth, Ranking, Trust
from sourcetrace.reporting.trust import Retraining
from sourcetrace.schemas import VerificationSummary
from sourcetrace.schemas.checkpoints import PARAMETER_GROUP, STATE_PLACE, VALUE_SOURCE
from sourcetrace.schemas.review import ACTIONS
from tests.audit.comparison.examples import point

GROUP = {
    "parameters": ["norm.weight"],
    "learning_rate": 0.1,
    "momentum": 0.9,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "step_mass": 10.0,
}
SOURCE = {"value": "step_mass", "source": "learning_rates in a.pt"}
CHECKPOINTS = ("step_10", "step_20", "step_30")
QUERIES = 7


def page_content(
    examples: int = 40,
    *,
    suspects: int = 6,
    labelled: bool = True,
    predicted: bool = True,
    pictured: bool = True,
    prefix: str = "scan-",
    label: str = "",
    classes: int = 3,
    reason: str = "It harms 5 of 7 queries.",
    **replaced: Any,
) -> PageContent:
    """Return content whose first `suspects` rows have a suggested action."""
    rng = np.random.default_rng(7)
    ids = [f"{prefix}{i:05d}" for i in range(examples)]
    place = np.arange(examples)
    given = [f"{label}{i % classes}" for i in range(examples)] if labelled else [None] * examples
    other = (
        [f"{label}{(i + 1) % classes}" for i in range(examples)] if predicted else [None] * examples
    )
    actions = np.where(place < suspects, np.where(place % 2 == 0, "relabel", "review"), "keep")
    harm = -np.sort(-rng.standard_t(2, examples)) * 1e-2
    loss = rng.exponential(0.3, examples)
    probability = np.exp(-loss).tolist() if labelled else [None] * examples
    review_list = pl.DataFrame(
        {
            "rank": place + 1,
            "example_id": ids,
            "index": place,
            "stage": ["train"] * examples,
            "given_label": pl.Series(given, dtype=pl.String),
            "predicted_label": pl.Series(other, dtype=pl.String),
            "given_label_probability": pl.Series(probability, dtype=pl.Float64),
            "loss": loss,
            "self_influence": rng.exponential(0.1, examples),
            "self_influence_rank": place // 3 + 1,
            "harm": harm,
            "harm_error": np.abs(harm) * np.where(place % 3 == 2, 0.8, 0.2),
            "sign_stable": place % 3 != 2,
            "total_query_loss_influence": -harm / 3,
            "queries_harmed": rng.integers(0, QUERIES, examples),
            "suspicion": np.linspace(1, 0, examples),
            "error_probability": pl.Series([None] * examples, dtype=pl.Float64),
            "suggested_action": actions,
            "suggested_label": pl.Series(
                [o if a == "relabel" else None for o, a in zip(other, actions, strict=True)],
                dtype=pl.String,
            ),
            "reason": [reason] * examples,
            "content_digest": [f"{i:040x}" for i in range(examples)],
            "decision": pl.Series([None] * examples, dtype=pl.String),
        }
    )
    manifest = pl.DataFrame(
        {
            "checkpoint_id": CHECKPOINTS,
            "file": [f"{name}.safetensors" for name in CHECKPOINTS],
            "run": [""] * 3,
            "step": [10, 20, 30],
            "stage": ["train"] * 3,
            "segment": [1, 1, 2],
            "optimizer": ["SGD"] * 3,
            "learning_rate": [0.1] * 3,
            "momentum": [0.9] * 3,
            "weight_decay": [0.0] * 3,
            "step_mass": [10.0] * 3,
            "learning_rate_source": ["constant"] * 3,
            "parameter_groups": pl.Series([[GROUP]] * 3, dtype=pl.List(PARAMETER_GROUP)),
            "sources": pl.Series([[SOURCE]] * 3, dtype=pl.List(VALUE_SOURCE)),
            "state_places": pl.Series([[]] * 3, dtype=pl.List(STATE_PLACE)),
            "sha256": ["0123456789abcdef" * 4] * 3,
            "bytes": [4096] * 3,
            "attributed_share": [0.75] * 3,
        }
    )
    told = {name: replaced.pop(name) for name in AuditSummary.model_fields if name in replaced}
    values: dict[str, Any] = {
        "summary": summary_of(review_list, **told),
        "review_list": review_list,
        "checkpoint_manifest": manifest,
        "unattributed_parameters": pl.DataFrame(
            {"parameter": ["norm.weight"], "size": [16], "reason": ["no linear layer"]}
        ),
        "segment_contributions": pl.concat(
            pl.DataFrame(
                {
                    "example_id": ids,
                    "segment": [segment] * examples,
                    "harm": harm / 2,
                    "mean_query_loss_influence": -harm / 3 / QUERIES / 2,
                    "mean_absolute_score": np.abs(harm) * segment,
                    "self_influence": np.abs(harm),
                }
            )
            for segment in (1, 2)
        ),
        "example_signals": pl.concat(
            pl.DataFrame(
                {
                    "example_id": ids,
                    "checkpoint_id": [name] * examples,
                    "loss": loss + 2 - place_in_time,
                    "measurement": -loss,
                    "predicted_label": pl.Series(other, dtype=pl.String),
                    "given_label_probability": pl.Series(probability, dtype=pl.Float64),
                    "gradient_norm": loss,
                }
            )
            for place_in_time, name in enumerate(CHECKPOINTS)
        ),
        "curvature_spectra": pl.DataFrame(
            {"segment": [1, 2], "layer": ["fc", "fc"], "trace": [1.0, 2.0]}
        ),
        "pictures": {name: rng.random((8, 8)) for name in ids[:60]} if pictured else {},
        "data_digests": {"training": "st1-training", "queries": "st1-queries"},
    }
    return PageContent(**(values | replaced))


def summary_of(review_list: pl.DataFrame, **told: Any) -> AuditSummary:
    """Return the summary of a review list."""
    counted = dict(review_list["suggested_action"].value_counts().iter_rows())
    suspects = review_list.filter(pl.col("suggested_action") != "keep")
    values: dict[str, Any] = {
        "scores_digest": "0" * 64,
        "task": "my_team.tasks.Scans",
        "method": "source",
        "trust": Trust(status="Not verified", text="."),
        "training_examples": review_list.height,
        "queries": QUERIES,
        "runs": 1,
        "checkpoints": 3,
        "segments": 2,
        "attributed_share": 0.75,
        "mean_query_loss": 0.2,
        "unstable": suspects.filter(~pl.col("sign_stable")).height,
        "actions": {name: counted.get(name, 0) for name in ACTIONS},
        "suspects": (),
    }
    return AuditSummary(**values | told)


def query_signals() -> pl.DataFrame:
    """Return what is known of the queries."""
    return pl.DataFrame({"loss": np.linspace(0.1, 0.3, QUERIES)})


def compared_audit(
    found: Comparison, examples: pl.DataFrame, *, digest: str = "0" * 64
) -> ComparedAudit:
    """Return a comparison of the page's own scores."""
    return ComparedAudit(
        replace(found, scores_digest=digest), examples, point(at="", trust_lds=0.6)
    )


def verification(
    *, low: float = 0.4, digest: str = "0" * 64, slope: float = 0.2, removals: bool = True
) -> Retraining:
    """Return what retraining said: an LDS of `low` + 0.03 over 30 halves, and 3 removals."""
    rng = np.random.default_rng(3)
    lds = low + 0.03
    measures = [
        ("lds", None, lds, low, lds + 0.03),
        ("ceiling", None, 0.92, None, None),
        ("lds_of_ceiling", None, lds / 0.92, low / 0.92, (lds + 0.03) / 0.92),
        ("subsets", None, 30.0, None, None),
        ("fraction", None, 0.5, None, None),
        ("seeds", None, 3.0, None, None),
        ("recipe_agreement", None, 0.7, None, None),
        ("seed_agreement", None, 0.75, None, None),
    ]
    if removals:
        measures += [
            ("removal_slope", None, slope, slope - 0.1, slope + 0.1),
            ("flips_helpers", 29, 0.45, 0.2, 0.6),
            ("flips_random", 29, 0.03, 0.0, 0.1),
            ("change_helpers", 29, -2.0, -3.0, -1.0),
            ("change_random", 29, -0.1, -0.2, 0.0),
        ]
    summary = pl.DataFrame(
        measures,
        schema={
            "measure": pl.String,
            "removed": pl.Int64,
            "value": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
        },
        orient="row",
    ).with_columns(
        detail=pl.lit("What it is."), method=pl.lit("source"), scores_digest=pl.lit(digest)
    )
    table = pl.DataFrame(
        {
            "kind": ["helpers", "random", "helpers"],
            "query_id": ["query-0", "query-0", "query-1"],
            "removed": [29, 29, 29],
            "predicted_change": [-12.0, -3.0, -8.0],
            "measured_change": [-2.0, -0.3, -1.9],
            "flipped_share": [1.0, 0.0, 1 / 3],
        }
    )
    return Retraining(
        summary=VerificationSummary.validate(summary),
        queries=pl.DataFrame(
            {
                "query_id": [f"query-{i}" for i in range(QUERIES)],
                "lds": rng.uniform(-0.3, 1, QUERIES),
            }
        ),
        removals=table if removals else table.clear(),
    )


def ground_truth(*names: str, digest: str = "0" * 64) -> GroundTruth:
    """Return an evaluation in which the first ranking finds most."""
    shares = np.linspace(0, 1, 61)
    return GroundTruth(
        scores_digest=digest,
        planted=10,
        examples=100,
        rankings=tuple(
            Ranking(
                name=name,
                found=8 - i,
                average_precision=0.9 - 0.1 * i,
                curve=tuple((float(share), float(share ** (0.3 + 0.1 * i))) for share in shares),
            )
            for i, name in enumerate(names or ("review list", "plain loss"))
        ),
    )


def two_runs() -> PageContent:
    """Return content of two training runs with equal steps, of two segments each."""
    content = page_content()
    ids = pl.col("checkpoint_id")
    return replace(
        content,
        checkpoint_manifest=pl.concat(
            content.checkpoint_manifest.with_columns(
                pl.lit(run) + "/" + ids, run=pl.lit(run), segment=pl.col("segment") + 2 * number
            )
            for number, run in enumerate(("run0", "run1"))
        ),
        segment_contributions=pl.concat(
            content.segment_contributions.with_columns(pl.col("segment") + 2 * number)
            for number in range(2)
        ),
        example_signals=pl.concat(
            content.example_signals.with_columns(
                pl.lit(run) + "/" + ids, loss=pl.col("loss") + number
            )
            for number, run in enumerate(("run0", "run1"))
        ),
    )
