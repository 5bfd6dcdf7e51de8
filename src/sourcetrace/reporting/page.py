"""The report page: one HTML document that needs no network, no script and no other file.

Its readers are an engineer with a minute (heading, figures, gallery) and somebody who works
through the list for an hour (everything below). It is rendered once, from tables and records. A
section is a template, the function here that gives it its values, and the record it is about.
What comes from data is made safe to show and escaped by the environment of the templates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.formats import safe_text, shorten
from sourcetrace.reporting import (
    change_tables,
    charts,
    findings,
    ranking_chart,
    tables,
    training_charts,
    trend_charts,
    trust_charts,
)
from sourcetrace.reporting.changes import change_sentences, changes_sentence
from sourcetrace.reporting.gallery import gallery_card
from sourcetrace.reporting.palette import Ink
from sourcetrace.reporting.records import AuditSummary, GroundTruth
from sourcetrace.reporting.trust import Retraining, Verification
from sourcetrace.schemas.review import is_suspect

_NOT_COMPARED = (
    "This page was not set beside an earlier audit yet: `kedro run --pipelines gate` does, and "
    "judges it."
)

_CARDS = 48
# The rest waits behind one click, so that the charts stay within reach.
_OPEN_CARDS = 12


@dataclass(frozen=True)
class ComparedAudit:
    """An audit set beside those before it.

    Attributes:
        found: What changed since the audit before.
        examples: `schemas.AuditComparison`.
        now: The audit's own place in the trends.
    """

    found: Comparison
    examples: pl.DataFrame
    now: AuditPoint


@dataclass(frozen=True)
class PageContent:
    """What the page is made of. Records of other scores than the summary's are left out.

    Attributes:
        summary: What the audit found.
        review_list: `schemas.ReviewList`, one row a training example.
        checkpoint_manifest: `schemas.CheckpointManifest`.
        unattributed_parameters: `schemas.UnattributedParameters`; may be empty.
        segment_contributions: `schemas.SegmentContributions`.
        example_signals: `schemas.ExampleSignals`.
        curvature_spectra: `schemas.CurvatureSpectra`; may be empty.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1, for the top suspects; may be empty.
        details: Columns of the training table to show with the top suspects, with `example_id`.
        verification: The last there was.
        comparison: The last there was.
        gate: The last verdict there was.
        ground_truth: How well errors were found that somebody planted.
    """

    summary: AuditSummary
    review_list: pl.DataFrame
    checkpoint_manifest: pl.DataFrame
    unattributed_parameters: pl.DataFrame
    segment_contributions: pl.DataFrame
    example_signals: pl.DataFrame
    curvature_spectra: pl.DataFrame
    pictures: Mapping[str, np.ndarray]
    details: pl.DataFrame | None = None
    verification: Verification | None = None
    comparison: ComparedAudit | None = None
    gate: GateReport | None = None
    ground_truth: GroundTruth | None = None

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
        summary, manifest = self.summary, self.checkpoint_manifest
        review_list = self.review_list.sort("rank")
        suspects = review_list.filter(is_suspect())
        cards = [
            gallery_card(row, pictures=self.pictures, details=self.details)
            for row in suspects.head(_CARDS).iter_rows(named=True)
        ]
        method, _, method_does = findings.describe_method(summary.method)
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                summary=summary,
                task=summary.task.rsplit(".", 1)[-1],
                result=findings.result_sentence(summary),
                key_figures=findings.key_figures(summary, manifest),
                cards=cards,
                uncertainty=findings.uncertainty_sentence(summary, review_list),
                has_probabilities=review_list["given_label_probability"].is_not_null().any(),
                open_cards=_OPEN_CARDS,
                suspects=suspects.height,
                full_list=tables.FULL_LIST,
                overlap=findings.overlap_sentences(review_list, top_share=summary.check_share),
                figures=self._figures(review_list),
                review_table=tables.review_table(review_list),
                segment_table=tables.segment_table(
                    manifest, self.segment_contributions, suspects["example_id"]
                ),
                notes=[
                    findings.dead_layers_sentence(self.curvature_spectra),
                    findings.interpolated_sentence(manifest),
                ],
                checkpoint_table=tables.checkpoint_table(manifest),
                parameter_table=tables.parameter_table(self.unattributed_parameters),
                unattributed=findings.unattributed_sentence(
                    self.unattributed_parameters, attributed_share=summary.attributed_share
                ),
                gate=self._gate(),
                trust=self._trust(),
                comparison=self._comparison(),
                ground_truth=self._ground_truth(),
                method=method,
                method_does=method_does,
                variables=Markup(Ink.variables(dark=False)),  # noqa: S704, our own constants
                dark_variables=Markup(Ink.variables(dark=True)),  # noqa: S704
                dark_chart_rules=Markup(Ink.dark_chart_rules()),  # noqa: S704
            )
        )

    def _figures(self, review_list: pl.DataFrame) -> list[Any]:
        manifest = self.checkpoint_manifest
        figures = [
            charts.loss_and_harm(review_list, top_share=self.summary.check_share),
            training_charts.loss_over_training(self.example_signals, review_list, manifest),
            charts.given_and_predicted(review_list),
            charts.suspects_per_label(review_list),
            training_charts.segment_contributions(
                self.segment_contributions, review_list, manifest
            ),
        ]
        return [figure for figure in figures if figure is not None]

    def _gate(self) -> dict[str, Any] | None:
        report = self.gate
        if report is None or report.scores_digest != self.summary.scores_digest:
            return None
        return {
            "report": report,
            "exceeded": [one for one in report.checks if one.status not in {"pass", "skipped"}],
            "skipped": [one for one in report.checks if one.status == "skipped"],
        }

    def _trust(self) -> dict[str, Any]:
        """Return the trust line, and where these scores were verified, what else there is."""
        digest, verification = self.summary.scores_digest, self.verification
        line = (verification or Retraining(pl.DataFrame())).trust_in(digest)
        values: dict[str, Any] = {"line": line, "figures": []}
        if verification is None or not verification.is_of(digest):
            return values
        figures = [
            trust_charts.correlation_histogram(verification.queries, verification.summary),
            trust_charts.removal_scatter(verification.removals, verification.summary),
        ]
        return values | {
            "figures": [figure for figure in figures if figure is not None],
            "sentences": verification.removal_sentences(),
            "table": verification.table(),
        }

    def _comparison(self) -> dict[str, Any]:
        compared = self.comparison
        if compared is None or compared.found.scores_digest != self.summary.scores_digest:
            return {"compared": False, "sentence": _NOT_COMPARED}
        found = compared.found
        values = {"compared": found.previous_at is not None, "sentence": changes_sentence(found)}
        if not values["compared"]:
            return values
        points = (*found.earlier, compared.now)
        return values | {
            "remarks": change_sentences(found),
            "figures": trend_charts.trend_figures(points),
            "suspect_tables": change_tables.suspect_tables(compared.examples, self.review_list),
            "drift_tables": change_tables.drift_tables(found),
            "history": change_tables.history_table(points),
        }

    def _ground_truth(self) -> dict[str, Any] | None:
        truth = self.ground_truth
        if truth is None or truth.scores_digest != self.summary.scores_digest:
            return None
        return {
            "summary": findings.ground_truth_sentence(truth),
            "table": tables.ranking_table(truth),
            "figure": ranking_chart.recall_curve(truth),
        }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Whatever a template writes; what is markup already is our own.
        finalize=lambda value: (
            safe_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters["shorten"] = shorten
    return environment
