"""The report page: one HTML document that needs no network, no script and no other file.

Its readers are an engineer with a minute (heading, figures, gallery) and somebody who works
through the list for an hour (everything below). What comes from data is escaped by the templates.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.formats import format_count, format_noun
from sourcetrace.reporting import change_tables, findings, palette, tables
from sourcetrace.reporting.changes import change_sentences, changes_sentence
from sourcetrace.reporting.gallery import GALLERY_CARDS, GALLERY_OPEN, gallery_card
from sourcetrace.reporting.trust import (
    Trust,
    Verification,
    is_current,
    removal_sentences,
    state_trust,
    trust_figure,
    trust_table,
)

if TYPE_CHECKING:
    from sourcetrace.reporting.drawing import Figure

GROUND_TRUTH_SLOT = "<!-- ground-truth -->"
TRUST_SLOTS = {"trust-line": "trust_line.html.j2", "trust-section": "trust_section.html.j2"}
"""Parts of the page between comments, which a verification replaces -> their templates."""

COMPARISON_SLOTS = {
    "comparison-line": "comparison_line.html.j2",
    "comparison-section": "comparison_section.html.j2",
}
"""Parts of the page between comments, which a comparison replaces -> their templates."""

NOT_COMPARED = (
    "This page was not set beside an earlier audit yet: `kedro run --pipelines gate` does, and "
    "judges it."
)

GATE_SLOT = "gate"
"""The part between comments that holds the gate's verdict; empty before there is one."""

_SCORES = re.compile('<meta name="sourcetrace-scores" content="([0-9a-f]*)">')


@dataclass(frozen=True)
class PageContent:
    """What the page is made of.

    Attributes:
        task_name: Import path of the task's class.
        method: `attribution.method`.
        review_list: `schemas.ReviewList`, one row a training example.
        checkpoint_manifest: `schemas.CheckpointManifest`.
        unattributed_parameters: `schemas.UnattributedParameters`; may be empty.
        segment_contributions: `schemas.SegmentContributions`.
        example_signals: `schemas.ExampleSignals`.
        query_signals: `schemas.QuerySignals`.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1, for the top suspects; may be empty.
        details: Columns of the training table to show with the top suspects, with `example_id`.
        scores_digest: Of the scores that the page is about.
        verification: The last there was, of these scores or of others.
    """

    task_name: str
    method: str
    review_list: pl.DataFrame
    checkpoint_manifest: pl.DataFrame
    unattributed_parameters: pl.DataFrame
    segment_contributions: pl.DataFrame
    example_signals: pl.DataFrame
    query_signals: pl.DataFrame
    pictures: Mapping[str, np.ndarray]
    details: pl.DataFrame | None = None
    scores_digest: str = ""
    verification: Verification | None = None


@dataclass(frozen=True)
class GroundTruthEvaluation:
    """How well rankings find label errors that were planted on purpose.

    Attributes:
        planted: Planted errors.
        top_count: Examples that count as inspected, 8 % of all.
        rankings: Columns ranking, found_in_top, recall_in_top, average_precision.
        curve: Columns ranking, inspected_share, found_share.
    """

    planted: int
    top_count: int
    rankings: pl.DataFrame
    curve: pl.DataFrame


def render_page(content: PageContent) -> str:
    """Return the page; the same content gives the same bytes.

    Raises:
        ValueError: If the review list is empty, or a picture has a wrong shape.
    """
    if content.review_list.is_empty():
        raise ValueError(
            "The review list is empty: expected one row a training example. Was the scoring run?"
        )
    review_list = content.review_list.sort("rank")
    suspects = review_list.filter(findings.is_suspect())
    cards = [
        gallery_card(row, pictures=content.pictures, details=content.details)
        for row in suspects.head(GALLERY_CARDS).iter_rows(named=True)
    ]
    summary = content.verification.summary if content.verification else pl.DataFrame()
    trust = state_trust(summary, scores_digest=content.scores_digest)
    current = is_current(summary, scores_digest=content.scores_digest)
    method, _, method_does = findings.describe_method(content.method)
    page = _environment().get_template("page.html.j2")
    return page.render(
        task=findings.task_label(content.task_name),
        task_name=content.task_name,
        result=findings.result_sentence(review_list),
        key_figures=findings.key_figures(
            content.method, review_list, content.checkpoint_manifest, content.query_signals
        ),
        cards=cards,
        uncertainty=findings.unstable_sentence(review_list),
        has_probabilities=review_list["given_label_probability"].is_not_null().any(),
        open_cards=GALLERY_OPEN,
        suspects=suspects.height,
        examples=review_list.height,
        full_list=tables.FULL_LIST,
        overlap=findings.overlap_sentences(findings.loss_overlap(review_list)),
        figures=_figures(content, review_list),
        review_table=tables.review_table(review_list),
        segment_table=tables.segment_table(
            content.checkpoint_manifest,
            content.segment_contributions,
            suspects["example_id"],
        ),
        interpolated=findings.interpolated_sentence(content.checkpoint_manifest),
        checkpoint_table=tables.checkpoint_table(content.checkpoint_manifest),
        parameter_table=tables.parameter_table(content.unattributed_parameters),
        unattributed=findings.unattributed_sentence(
            content.unattributed_parameters, content.checkpoint_manifest
        ),
        scores_digest=content.scores_digest,
        **_trust_parts(trust, content.verification if current else None),
        comparison_section=_part("comparison-section", compared=False, sentence=NOT_COMPARED),
        method=method,
        method_does=method_does,
        ground_truth_slot=Markup(GROUND_TRUTH_SLOT),  # noqa: S704, our own constants
        variables=Markup(palette.page_variables(dark=False)),  # noqa: S704
        dark_variables=Markup(palette.page_variables(dark=True)),  # noqa: S704
        dark_chart_rules=Markup(palette.dark_chart_rules()),  # noqa: S704
    )


def insert_ground_truth(page: str, evaluation: GroundTruthEvaluation) -> str:
    """Return the page with the section on planted errors in its slot.

    The audit never sees which labels were planted; whoever planted them calls this afterwards.

    Raises:
        ValueError: If the page has no slot, or more than one.
    """
    from sourcetrace.reporting import ranking_chart  # noqa: PLC0415, altair takes 0.3 s

    slots = page.count(GROUND_TRUTH_SLOT)
    if slots != 1:
        raise ValueError(
            f"The page has {slots} slots {GROUND_TRUTH_SLOT!r}, expected 1. Pass what render_page "
            "returned; a page takes one ground-truth section."
        )
    section = (
        _environment()
        .get_template("ground_truth.html.j2")
        .render(
            summary=_ground_truth_sentence(evaluation),
            table=tables.ranking_table(
                evaluation.rankings, planted=evaluation.planted, top_count=evaluation.top_count
            ),
            figure=ranking_chart.recall_curve(evaluation.curve),
        )
    )
    return page.replace(GROUND_TRUTH_SLOT, section)


def scores_of(page: str) -> str:
    """Return the digest of the scores that a page is about; nothing, if it does not say."""
    found = _SCORES.search(page)
    return found.group(1) if found else ""


def insert_verification(page: str, verification: Verification) -> str:
    """Return the page with a verification of its scores in place of what it said before.

    Raises:
        ValueError: If the page lacks a part that is to be replaced.
    """
    parts = _trust_parts(trust_figure(verification.summary), verification)
    for name, variable in zip(TRUST_SLOTS, parts, strict=True):
        page = _replace_part(page, name, parts[variable])
    return page


def insert_comparison(
    page: str,
    found: Comparison,
    audit_comparison: pl.DataFrame,
    review_list: pl.DataFrame,
    *,
    now: AuditPoint,
) -> str:
    """Return the page with what changed since the audit before, in place of what it said.

    Args:
        page: What `render_page` returned.
        found: What the comparison says.
        audit_comparison: `schemas.AuditComparison`.
        review_list: `schemas.ReviewList`.
        now: The page's own audit, for the trends.

    Raises:
        ValueError: If the page lacks a part that is to be replaced.
    """
    from sourcetrace.reporting import trend_charts  # noqa: PLC0415, altair takes 0.3 s

    values: dict[str, object] = {"compared": False, "sentence": changes_sentence(found)}
    if found.previous_at is not None:
        points = (*found.earlier, now)
        drift = (change_tables.class_table(found), change_tables.layer_table(found))
        values |= {
            "compared": True,
            "remarks": change_sentences(found),
            "figures": trend_charts.trend_figures(points),
            "suspect_tables": change_tables.suspect_tables(audit_comparison, review_list),
            "drift_tables": [table for table in drift if table is not None],
            "history": change_tables.history_table(points),
        }
    for name in COMPARISON_SLOTS:
        page = _replace_part(page, name, _part(name, **values))
    return page


def insert_gate(page: str, report: GateReport) -> str:
    """Return the page with the gate's verdict at its top, in place of an earlier one.

    Raises:
        ValueError: If the page lacks the part that is to be replaced.
    """
    exceeded = [check for check in report.checks if check.status not in {"pass", "skipped"}]
    skipped = [check for check in report.checks if check.status == "skipped"]
    banner = (
        _environment()
        .get_template("gate_banner.html.j2")
        .render(report=report, exceeded=exceeded, skipped=skipped)
    )
    return _replace_part(page, GATE_SLOT, f"<!-- {GATE_SLOT} -->\n{banner}<!-- /{GATE_SLOT} -->")


def _replace_part(page: str, name: str, part: str) -> str:
    """Return the page with another part between the comments of that name, comments included."""
    slot = re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if len(slot.findall(page)) != 1:
        raise ValueError(f"The page has no single part {name!r}. Pass what render_page returned.")
    # A function, because a string's backslashes would be read.
    return slot.sub(lambda _: str(part), page)


def _part(name: str, **values: object) -> Markup:
    """Return a part of the page within its comments."""
    part = _environment().get_template(COMPARISON_SLOTS[name]).render(values)
    return Markup(f"<!-- {name} -->\n{part}<!-- /{name} -->")  # noqa: S704, templates escape


def _trust_parts(trust: Trust, verification: Verification | None) -> dict[str, Markup]:
    """Return trust_line and trust_section, each within its comments."""
    from sourcetrace.reporting import trust_charts  # noqa: PLC0415, altair takes 0.3 s

    figures: list[Figure | None] = []
    values: dict[str, object] = {"trust": trust}
    if verification is not None:
        figures = [
            trust_charts.correlation_histogram(verification.queries, verification.summary),
            trust_charts.removal_scatter(verification.removals, verification.summary),
        ]
        values["sentences"] = removal_sentences(verification)
        values["table"] = trust_table(verification.summary)
    values["figures"] = [figure for figure in figures if figure is not None]
    return {
        name.replace("-", "_"): Markup(  # noqa: S704, the templates escape what they are given
            f"<!-- {name} -->\n{_environment().get_template(template).render(values)}"
            f"<!-- /{name} -->"
        )
        for name, template in TRUST_SLOTS.items()
    }


def _figures(content: PageContent, review_list: pl.DataFrame) -> "list[Figure]":
    from sourcetrace.reporting import charts, training_charts  # noqa: PLC0415, altair takes 0.3 s

    manifest = content.checkpoint_manifest
    figures = [
        charts.loss_and_harm(review_list),
        training_charts.loss_over_training(content.example_signals, review_list, manifest),
        charts.given_and_predicted(review_list),
        charts.suspects_per_label(review_list),
        training_charts.segment_contributions(
            content.segment_contributions,
            review_list,
            manifest,
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _ground_truth_sentence(evaluation: GroundTruthEvaluation) -> str:
    planted = format_noun(evaluation.planted, "label error")
    text = f"{planted} {'was' if evaluation.planted == 1 else 'were'} planted before training."
    if evaluation.rankings.is_empty():
        return text
    best = evaluation.rankings.sort("found_in_top", descending=True, maintain_order=True).row(
        0, named=True
    )
    return (
        f"{text} “{best['ranking']}” finds {format_count(best['found_in_top'])} of them among its "
        f"first {format_noun(evaluation.top_count, 'example')}"
        f"{', more than any other ranking here' if _is_alone(evaluation.rankings) else ''}."
    )


def _is_alone(rankings: pl.DataFrame) -> bool:
    """Whether one of several rankings finds more than every other."""
    found = rankings.get_column("found_in_top")
    return rankings.height > 1 and int((found == found.max()).sum()) == 1


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
