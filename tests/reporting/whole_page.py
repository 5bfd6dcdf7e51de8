"""A page with every section that there is, of the texts that somebody gives it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from sourcetrace.audit.comparison.changes import compare_examples
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.cleaning import CleaningGain, MeasuredCleaning
from sourcetrace.reporting.decided import DecisionSummary
from sourcetrace.reporting.page import PageContent
from sourcetrace.reporting.queries.pages import QuerySection
from sourcetrace.reporting.records import AuditRun
from sourcetrace.schemas import ExampleIssues, GroupSuspects, SuspectGroups
from sourcetrace.schemas.groups import KINDS
from sourcetrace.schemas.issues import ISSUES
from tests.audit.comparison.examples import audit, second_audit
from tests.audit.gate.examples import verdict
from tests.reporting.content import compared_audit, ground_truth, page_content, verification
from tests.reporting.queries.test_view import query_view
from tests.reporting.test_groups_section import group

DIGEST = "0" * 64
SUSPECTS = 26
GROUPED = 4
"""The first suspects, each in all groups."""


def whole_page(texts: Sequence[str] = ("scan-",), queries: int = 14) -> PageContent:
    """Return content of 40 examples; every text of the user's is one of these and a number."""

    def named(count: int) -> list[str]:
        return [f"{texts[i % len(texts)]}#{i}" for i in range(count)]

    content = page_content(suspects=SUSPECTS, pictured=False)
    ids, labels = named(40), named(3)
    some = pl.Series([labels[i % 3] for i in range(40)])
    others = pl.Series([labels[(i + 1) % 3] for i in range(40)])
    review_list = content.review_list.with_columns(
        example_id=pl.Series(ids),
        given_label=some,
        predicted_label=others,
        suggested_label=others,
        reason=pl.Series(ids),
        site=pl.Series(ids),
    )
    rename = dict(zip(content.review_list["example_id"], ids, strict=True))
    tables = {
        name: getattr(content, name).with_columns(pl.col("example_id").replace(rename))
        for name in ("segment_contributions", "example_signals")
    }
    now, before = (
        audit(*((name, name, labels[0], i % 2 == odd) for i, name in enumerate(ids)))
        for odd in (0, 1)
    )
    checks = (
        {"metric": "class_concentration", "at_most": 2},
        {"metric": "trust_lds", "at_least": 1},
    )
    gate = verdict(*checks, class_concentration=3.0, trust_lds=None)
    spoken = tuple(
        one.model_copy(update={"message": name})
        for one, name in zip(gate.checks, ids, strict=False)
    )
    return replace(
        content,
        **tables,
        review_list=review_list,
        checkpoint_manifest=content.checkpoint_manifest.with_columns(
            file=pl.Series(ids[:3]), optimizer=pl.Series(ids[3:6])
        ),
        unattributed_parameters=pl.DataFrame(
            {"parameter": ids[:13], "size": [16] * 13, "reason": ["no linear layer"] * 13}
        ),
        model=RegisteredModelParameters(name=ids[0], alias=ids[1]),
        run=AuditRun(scores_digest=DIGEST, at="2026-11-29T12:00:00+00:00", environment=ids[2]),
        pictures={ids[0]: np.ones((8, 8))},
        suspect_groups=SuspectGroups.frame(
            group(i, kind=KINDS[i % len(KINDS)], name=name, members=ids[i : i + 3])
            for i, name in enumerate(ids[:13])
        ),
        group_suspects=GroupSuspects.frame(
            (str(i), name) for i in range(13) for name in ids[:GROUPED]
        ),
        example_issues=ExampleIssues.frame(
            (name, issue, 0.9, True, name) for name in ids[:13] for issue in ISSUES
        ),
        queries=_queries(named(queries), ids),
        verification=verification(),
        comparison=compared_audit(second_audit(), compare_examples(now, before)),
        gate=gate.model_copy(update={"scores_digest": DIGEST, "checks": spoken}),
        ground_truth=ground_truth(*ids[:2]),
        decided=DecisionSummary(DIGEST, {"keep": 1}, 0, 0, {"keep": 1}, 40, {}, sampled=False),
        cleaning=measured_cleaning(),
    )


def _queries(names: list[str], ids: list[str]) -> QuerySection:
    view = query_view(len(names), count=3)
    rename = {f"q{i}": name for i, name in enumerate(names)} | {
        f"e{i}": name for i, name in enumerate(ids)
    }
    told = {
        table: getattr(view, table).with_columns(pl.col("^example_id|query_id$").replace(rename))
        for table in (
            "query_strongest",
            "query_shares",
            "query_signals",
            "query_table",
            "train_table",
        )
    }
    told["query_table"] = told["query_table"].with_columns(label="example_id", text="example_id")
    told["train_table"] = told["train_table"].with_columns(label="example_id", text="example_id")
    told["query_signals"] = told["query_signals"].with_columns(predicted_label="example_id")
    view = replace(view, **told)
    return QuerySection(lambda: view.explained(view.worst(len(names))), len(names) + 1)


def measured_cleaning() -> MeasuredCleaning:
    """Return what retraining said of three measures."""
    gains = tuple(
        CleaningGain(name, 1.0, 2.0, 1.0, 0.5, 1.5, 0.1, 0.9, 0.4, 1.4)
        for name in ("measurement", "accuracy", "loss")
    )
    return MeasuredCleaning(DIGEST, "decisions", 3, 4, 10, 3, True, 100, 0.5, gains)
