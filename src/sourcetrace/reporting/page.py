"""The report page: one HTML document that needs no network and no other file.

Its readers are an engineer with a minute (what was audited and the verdict) and somebody who
decides on suspects for an hour (everything below; without its script the page is whole). It is
rendered once, from tables and records; its words are in the templates. What comes from data is
made safe to show and escaped there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl

from sourcetrace.audit.gate.report import GateReport
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.formats import format_count
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.changes import ComparedAudit
from sourcetrace.reporting.cleaning import MeasuredCleaning
from sourcetrace.reporting.decided import DecisionSummary, count_decisions, standing_words
from sourcetrace.reporting.queries.pages import QuerySection
from sourcetrace.reporting.records import AuditRun, AuditSummary, GroundTruth
from sourcetrace.reporting.suspects import SuspectTable
from sourcetrace.reporting.tables import Table
from sourcetrace.reporting.templating import Ink, Script, template
from sourcetrace.reporting.trust import Retraining
from sourcetrace.schemas.decisions import DecisionLog
from sourcetrace.schemas.groups import GroupSuspects, SuspectGroups
from sourcetrace.schemas.issues import ExampleIssues
from sourcetrace.schemas.review import is_suspect, rounded_labels

_Record = TypeVar(
    "_Record",
    AuditRun,
    ComparedAudit,
    DecisionSummary,
    GateReport,
    GroundTruth,
    MeasuredCleaning,
)

_SCRIPTS = ("table.js", "queries.js")

_NAMED = 3
"""Examples named of an issue."""


@dataclass(frozen=True)
class PageContent:
    """What the page is made of. Records of other scores than the summary's are left out.

    Attributes:
        summary: What the audit found.
        review_list: `schemas.ReviewList`, one row a training example, with the task's columns.
        checkpoint_manifest: `schemas.CheckpointManifest`.
        unattributed_parameters: `schemas.UnattributedParameters`; may be empty.
        segment_contributions: `schemas.SegmentContributions`.
        example_signals: `schemas.ExampleSignals`.
        curvature_spectra: `schemas.CurvatureSpectra`; may be empty.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1, for the top suspects; may be empty.
        data_digests: `training` and `queries` -> digest of what they contain.
        model: The registered version, where one is named.
        run: The run that computed the scores.
        queries: Of which there is something to say.
        suspect_groups: `schemas.SuspectGroups`.
        group_suspects: `schemas.GroupSuspects`.
        example_issues: `schemas.ExampleIssues`.
        verification: The last there was.
        comparison: The last there was.
        gate: The last verdict there was.
        ground_truth: How well errors were found that somebody planted.
        decision_log: `schemas.DecisionLog`: what people decided about this audit and others.
        decided: What they decided about this one.
        cleaning: What retraining on cleaned data gained.
    """

    summary: AuditSummary
    review_list: pl.DataFrame
    checkpoint_manifest: pl.DataFrame
    unattributed_parameters: pl.DataFrame
    segment_contributions: pl.DataFrame
    example_signals: pl.LazyFrame
    curvature_spectra: pl.DataFrame
    pictures: Mapping[str, np.ndarray]
    data_digests: Mapping[str, str] = field(default_factory=dict)
    model: RegisteredModelParameters | None = None
    run: AuditRun | None = None
    queries: QuerySection | None = None
    suspect_groups: pl.DataFrame = field(default_factory=SuspectGroups.frame)
    group_suspects: pl.DataFrame = field(default_factory=GroupSuspects.frame)
    example_issues: pl.DataFrame = field(default_factory=ExampleIssues.frame)
    verification: Retraining = field(default_factory=Retraining)
    comparison: ComparedAudit | None = None
    gate: GateReport | None = None
    ground_truth: GroundTruth | None = None
    decision_log: pl.DataFrame = field(default_factory=DecisionLog.frame)
    decided: DecisionSummary | None = None
    cleaning: MeasuredCleaning | None = None

    def render(self) -> str:
        """Return the page; the same content gives the same bytes.

        Raises:
            ValueError: If the review list is empty, or a picture has a wrong shape.
        """
        if self.review_list.is_empty():
            raise ValueError(
                "The review list is empty: expected one row a training example. Was the scoring "
                "run?"
            )
        # Here: they import Altair, and a page that stands is not drawn.
        from sourcetrace.reporting import charts, trend_charts, trust_charts  # noqa: PLC0415

        summary, manifest = self.summary, self.checkpoint_manifest
        # As it is written; another copy of a million rows is spared.
        in_order = self.review_list["rank"].is_sorted()
        review_list = rounded_labels(
            self.review_list if in_order else self.review_list.sort("rank")
        )
        suspects = review_list.filter(is_suspect())
        compared = self._of_these_scores(self.comparison)
        truth = self._of_these_scores(self.ground_truth)
        verified = self.verification.is_of(summary.scores_digest)
        return template("page.html.j2").render(
            summary=summary,
            manifest=manifest,
            review_list=review_list,
            unattributed=self.unattributed_parameters,
            method=METHODS.get(summary.method),
            suspects=SuspectTable.of(
                review_list,
                pictures=self.pictures,
                scores_digest=summary.scores_digest,
                groups=self._groups_of_suspects(),
            ),
            groups=self.suspect_groups.rows(named=True) or None,
            issues=_flagged(self.example_issues),
            model=self.model,
            digests=self.data_digests,
            run=self._of_these_scores(self.run),
            scripts=[Script.named(name) for name in _SCRIPTS],
            queries=self.queries,
            overlap=_LossOverlap.of(review_list, top_share=summary.suspect_share),
            dead_layers=_layers_without_gradients(self.curvature_spectra),
            figures=charts.suspect_figures(
                review_list,
                self.example_signals,
                self.segment_contributions,
                manifest,
                top_share=summary.suspect_share,
            ),
            segment_table=Table.of_segments(
                manifest, self.segment_contributions, suspects["example_id"]
            ),
            checkpoint_table=Table.of_checkpoints(manifest),
            parameter_table=Table.of_parameters(self.unattributed_parameters),
            gate=self._of_these_scores(self.gate),
            outdated=self._is_outdated(),
            trust=self.verification.trust_in(summary.scores_digest, kept=summary.scores_kept),
            verification=self.verification if verified else None,
            trust_figures=trust_charts.trust_figures(self.verification) if verified else [],
            compared=compared,
            trend_figures=trend_charts.trend_figures(compared.points) if compared else [],
            ground_truth=truth,
            standing=standing_words(self.review_list, self.decision_log),
            decided=self._of_these_scores(self.decided),
            cleaning=self._of_these_scores(self.cleaning),
            ranking_table=Table.of_rankings(truth) if truth else None,
            ranking_figure=trust_charts.recall_curve(truth) if truth else None,
            inks=Ink,
        )

    def _groups_of_suspects(self) -> dict[str, list[str]]:
        grouped = self.group_suspects.group_by("example_id").agg("group_id")
        return dict(grouped.select("example_id", "group_id").iter_rows())

    def _is_outdated(self) -> bool:
        """Return whether decisions, or parameters of the report, came after the verdict."""
        compared = self._of_these_scores(self.comparison)
        decided = self._of_these_scores(self.decided)
        return (
            compared is not None and compared.found.suspects_now != self.summary.suspect_count
        ) or (
            decided is not None
            and decided.standing != count_decisions(self.review_list["decision"])
        )

    def _of_these_scores(self, record: _Record | None) -> _Record | None:
        mine = record is not None and record.scores_digest == self.summary.scores_digest
        return record if mine else None


@dataclass(frozen=True)
class _LossOverlap:
    """What plain loss, which costs nothing, would have found instead.

    Attributes:
        top_share: The share of a ranking that is looked at.
        examples, top: Examples in all, and in this share.
        shared: Of the first examples of the list, how many have one of the highest losses.
        suspects, missed: Suspects, and how many of them have none.
    """

    top_share: float
    examples: int
    top: int
    shared: int
    suspects: int
    missed: int

    @classmethod
    def of(cls, review_list: pl.DataFrame, *, top_share: float) -> Self:
        """Compare two rankings; equal losses keep the review list's order.

        Args:
            review_list: `schemas.ReviewList`.
            top_share: As the attribute.
        """
        top = round(top_share * review_list.height)
        by_loss = review_list.select("loss", "rank", "suggested_action", "decision").sort(
            ["loss", "rank"], descending=[True, False]
        )
        highest, others = by_loss.head(top), by_loss.tail(-top)
        return cls(
            top_share=top_share,
            examples=review_list.height,
            top=top,
            shared=highest.filter(pl.col("rank") <= top).height,
            suspects=by_loss.filter(is_suspect()).height,
            missed=others.filter(is_suspect()).height,
        )


def _flagged(example_issues: pl.DataFrame) -> list[dict[str, Any]]:
    """Return how many are flagged with each issue that has any, and the first of them."""
    shown = pl.struct("example_id", "related").head(_NAMED)
    return (
        example_issues.filter("flagged")
        .group_by("issue", maintain_order=True)
        .agg(flagged=pl.len(), first=shown)
        .rows(named=True)
    )


def _layers_without_gradients(curvature_spectra: pl.DataFrame) -> list[str]:
    """Return the layers that no gradient reached, with the segments where it is not in all.

    Args:
        curvature_spectra: `schemas.CurvatureSpectra`.
    """
    segments = curvature_spectra["segment"].n_unique()
    dead = (
        curvature_spectra.filter(pl.col("trace") == 0)
        .group_by("layer", maintain_order=True)
        .agg(pl.col("segment").sort())
    )
    return [
        layer
        if len(numbers) == segments
        else f"{layer} (in segment {', '.join(map(format_count, numbers))})"
        for layer, numbers in dead.iter_rows()
    ]
