"""The review list: its order, its suggestions and its copy for spreadsheets."""

import io
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sourcetrace.hooks.terminal import Terminal
from sourcetrace.parameters import ReportParameters, TaskParameters
from sourcetrace.pipelines.cleaning_report.nodes import list_for_review, summarise_audit
from sourcetrace.reporting.records import AuditSummary, Suspect
from sourcetrace.reporting.review import spreadsheet_text
from sourcetrace.schemas import DecisionLog, ReviewList, VerificationSummary
from sourcetrace.schemas.review import in_order_of, is_suspect, rounded_labels
from tests.audit.decisions.examples import decide


def tables(ids, harm, *, labels, predicted, probability, errors=None):
    count = len(ids)
    errors = errors or [0.0] * count
    return {
        "train_table": pl.DataFrame({"example_id": ids, "label": labels, "stage": [["s"]] * count}),
        "checkpoint_manifest": pl.DataFrame({"checkpoint_id": ["first", "last"], "run": ["", ""]}),
        "example_signals": pl.DataFrame(
            {
                "example_id": ids * 2,
                "checkpoint_id": ["first"] * count + ["last"] * count,
                "loss": [9.0] * count + [1.0] * count,
                "measurement": [0.0] * 2 * count,
                "predicted_label": predicted * 2,
                "given_label_probability": probability * 2,
                "gradient_norm": [1.0] * 2 * count,
            },
            schema_overrides={"given_label_probability": pl.Float64},
        ),
        "example_digests": pl.DataFrame(
            {
                "example_id": ids,
                "label": labels,
                "input_digest": [f"{i:032x}" for i in range(count)],
                "target_digest": [None] * count,
            },
            schema_overrides={"target_digest": pl.String},
        ),
        "decision_log": DecisionLog.frame(),
        "data_digests": {"training": {"set_aside": [{"index": 1}]}},
        "query_signals": pl.DataFrame({"loss": [0.1] * 10}),
        "query_influence": pl.DataFrame(
            {
                "example_id": ids,
                "harm": harm,
                "harm_error": errors,
                "harm_error_checkpoints": errors,
                "harm_error_queries": [0.0] * count,
                "sign_stable": [abs(h) > 2 * e for h, e in zip(harm, errors, strict=True)],
                "mean_query_loss_influence": [-0.5] * count,
                "queries_harmed": [3] * count,
                "most_harmed_query": ["q"] * count,
                "most_harmed_score": [1.0] * count,
                "method": ["source"] * count,
            }
        ),
        "self_influence": pl.DataFrame(
            {"example_id": ids, "self_influence": [float(i) for i in range(count)]}
        ),
        "suspicions": pl.DataFrame(
            {
                "example_id": ids,
                "suspicion": [0.9, 0.95, 0.1, 0.92][:count] + [0.5] * (count - 4),
                "false_discovery": [0.1, 0.05, 1.0, 0.1][:count] + [0.01] * (count - 4),
                "corrected_probability": [0.02, 0.004, 0.99, 0.4][:count] + [None] * (count - 4),
                "other_label": [*predicted[:2], None, None][:count] + [None] * (count - 4),
                "exploratory": [""] * count,
            },
            schema_overrides={"corrected_probability": pl.Float64, "other_label": pl.String},
        ),
    }


def review(report=None, **changes):
    content = tables(
        ["a", "b", "c", "=d"],
        [1.0, 5.0, -2.0, 3.0],
        labels=["x", "x", "y", "y"],
        predicted=["y", "y", "y", "y"],
        probability=[0.1, 0.2, 0.9, 0.8],
    )
    table, copy = list_for_review(**{**content, **changes}, report=report or ReportParameters())
    return table, copy.collect()


def test_the_most_suspicious_come_first_and_suspects_get_an_action():
    table, _ = review()
    ReviewList.validate(table)
    assert table["example_id"].to_list() == ["b", "=d", "a", "c"]
    assert table["index"].to_list() == [2, 4, 0, 3]  # 1 was set aside
    assert table["suggested_action"].to_list() == ["relabel", "review", "relabel", "keep"]
    assert table["suggested_label"].to_list() == ["y", None, "y", None]
    assert table["loss"].to_list() == [1.0] * 4
    assert table["total_query_loss_influence"].to_list() == [-5.0] * 4
    assert table["reason"][0] == (
        "Without this example the model would say y, and give its label (x) < 1 %. "
        "Removing it should help 3 of 10 queries (total margin +5.0)."
    )
    assert table["reason"][3] == "It does not stand out."


def test_an_example_that_was_set_aside_is_not_listed():
    content = tables(
        ["a", "b", "c", "=d"],
        [1.0, 5.0, -2.0, 3.0],
        labels=["x", "x", "y", "y"],
        predicted=["y", "y", "y", "y"],
        probability=[0.1, 0.2, 0.9, 0.8],
    )
    for name in ("example_signals", "query_influence", "self_influence", "suspicions"):
        content[name] = content[name].filter(pl.col("example_id") != "a")
    table, copy = review(**content)
    ReviewList.validate(table)
    assert table["example_id"].to_list() == ["b", "=d", "c"]
    assert table["index"].to_list() == [2, 4, 3]
    assert copy.height == 3
    ordered = in_order_of(content["train_table"], table)
    assert ordered["example_id"].to_list() == ["a", "b", "c", "=d"]
    assert ordered["harm"].to_list() == [0.0, 5.0, -2.0, 3.0]
    assert ordered.select(is_suspect()).to_series().to_list() == [False, True, False, True]


def test_decisions_say_how_likely_the_other_labels_are_wrong():
    ids = [f"e{i:02d}" for i in range(40)]
    content = tables(
        ids, [1.0] * 40, labels=["x"] * 40, predicted=["y"] * 40, probability=[0.2] * 40
    )
    suspicion = pl.Series([(39 - i) / 40 for i in range(40)])
    content["suspicions"] = content["suspicions"].with_columns(suspicion=suspicion)
    first, _ = review(**content)
    assert first["error_probability"].is_null().all()
    wrong = [(name, "relabel", {"new_label": "y"}) for name in ids[:20:2]]
    right = [(name, "keep", {}) for name in ids[20::2]]
    table, _ = review(**content | {"decision_log": decide(first, *wrong, *right, labels="xy")})
    found = table.sort("example_id")["error_probability"]
    assert found.is_sorted(descending=True)
    assert found[1] > 0.7
    assert found[39] < 0.3
    # Relabelled as decided: of the label that is there now nobody has said anything.
    done = content["train_table"].with_columns(
        label=pl.when(pl.col("example_id").is_in(ids[:20:2])).then(pl.lit("y")).otherwise("label")
    )
    digests = content["example_digests"].with_columns(done["label"])
    log = decide(first, *wrong, *right, labels="xy")
    after = content | {"train_table": done, "example_digests": digests, "decision_log": log}
    table, _ = review(**after)
    assert table["error_probability"].is_null().all()


def test_the_tables_own_columns_come_along_to_filter_by():
    named = {"labels": ["x", "y"], "predicted": ["x", "y"], "probability": [0.5, 0.5]}
    content = tables(["a", "b"], [1.0, 2.0], **named) | {"data_digests": {"training": {}}}
    train_table = content["train_table"]
    own = train_table.with_columns(
        region=pl.Series(["=north", "south"]), loss=pl.lit("own"), vector=pl.lit([1.0, 2.0])
    )
    table, copy = review(**content | {"train_table": own})
    ReviewList.validate(table)
    assert table.columns[len(ReviewList.columns()) :] == ["region", "loss_of_table"]
    assert table["region"].to_list() == ["south", "=north"]
    assert copy["region"].to_list() == ["south", "'=north"]


def test_what_was_decided_before_is_there_and_says_so():
    first, _ = review()
    said = [("b", "keep", {}), ("=d", "relabel", {"new_label": "x"}), ("a", "remove", {})]
    log = decide(first, *said, labels="xy")
    table, _ = review(decision_log=log)
    ReviewList.validate(table)
    assert table["decision"].to_list() == ["keep", "relabel", "remove", None]
    assert table["reason"].str.split("Removing it").list.first().to_list()[:3] == [
        "Kept by Ann on 2026-11-29. Without this example the model would say y, and give its "
        "label (x) < 1 %. ",
        "To be relabelled to x, decided by Ann on 2026-11-29; not done. Without this example the "
        "model would give its label (y) 40 %. ",
        "To be removed, decided by Ann on 2026-11-29; not done. Without this example the model "
        "would say y, and give its label (x) 2 %. ",
    ]
    assert table.filter(is_suspect())["example_id"].to_list() == ["=d", "a"]
    # Trained again with the label that was decided on, it stands out as before.
    content = tables(
        ["a", "b", "c", "=d"],
        [1.0, 5.0, -2.0, 3.0],
        labels=["x", "x", "y", "x"],
        predicted=["y"] * 4,
        probability=[0.1, 0.2, 0.9, 0.8],
    )
    table, _ = review(**content | {"decision_log": log})
    row = table.row(by_predicate=pl.col("example_id") == "=d", named=True)
    assert row["decision"] == "relabel"
    assert row["reason"].startswith("Relabelled to x as decided by Ann on 2026-11-29; it still")


def test_the_suspects_follow_the_false_discovery_rate():
    for rate, count in ((0.0, 0), (0.05, 1), (0.2, 3)):
        table, _ = review(report=ReportParameters(false_discovery_rate=rate))
        assert table.filter(pl.col("suggested_action") != "keep").height == count


def uncertain():
    """Return tables whose first and second suspects have no stable sign."""
    return tables(
        ["a", "b", "c", "=d"],
        [1.0, 5.0, -2.0, 3.0],
        labels=["x", "x", "y", "y"],
        predicted=["y", "y", "y", "y"],
        probability=[0.1, 0.2, 0.9, 0.8],
        errors=[0.1, 2.5, 0.1, 2.0],
    )


def test_a_harm_of_no_stable_sign_says_so():
    table, copy = review(**uncertain())
    ReviewList.validate(table)
    assert table["reason"][1].endswith("What removing it does to the queries is uncertain.")
    assert "uncertain" not in table["reason"][2]
    assert copy.select("harm_error", "sign_stable").equals(
        table.select("harm_error", "sign_stable")
    )


class Scores:
    """Stands in for the files of scores."""

    are_kept = True

    def digest(self):
        return "d"


def summarised(review_list, content, **changes):
    columns = VerificationSummary.to_schema().columns
    values = {
        "score_files": Scores(),
        "query_influence": content["query_influence"],
        "verification_summary": pl.DataFrame(schema=dict.fromkeys(columns, pl.String)),
        "review_list": review_list,
        "suspicions": content["suspicions"],
        "checkpoint_manifest": pl.DataFrame(
            {"segment": [1], "run": [""], "attributed_share": [1.0]}
        ),
        "query_signals": content["query_signals"],
        "segment_contributions": pl.DataFrame({"segment": [1], "mean_absolute_score": [1.0]}),
        "set_aside": [{"example_id": "e"}],
        "kept_curvature": {},
        "task": TaskParameters.model_validate({"class": "a.Task"}),
    }
    summary, metrics = summarise_audit(**values | changes)
    return AuditSummary.model_validate(summary), metrics


def printed(summary):
    output = io.StringIO()
    Terminal(Console(file=output, width=200)).print_summary(
        summary, ground_truth=None, page="page", review_list="list"
    )
    return output.getvalue()


def test_unstable_suspects_are_counted():
    content = uncertain()
    summary, metrics = summarised(review(**content)[0], content)
    assert summary.unstable == 2
    assert metrics["unstable_share"]["value"] == pytest.approx(2 / 3)
    assert (summary.scores_digest, summary.task, summary.suspect_share) == ("d", "a.Task", 0.75)
    assert "For 2 of these 3 even the sign of the gain is uncertain" in printed(summary)


def test_what_was_set_aside_is_counted():
    content = uncertain()
    summary, metrics = summarised(review(**content)[0], content)
    assert summary.set_aside == metrics["set_aside"]["value"] == 1
    assert "\n1 example could not be used and was left out (task.set_aside)" in printed(summary)


def test_a_curvature_of_other_data_is_told():
    content = uncertain()
    kept = {"text": "Not a full audit: 1 gone.", "share": 0.25, "gradient_share": None}
    summary, metrics = summarised(review(**content)[0], content, kept_curvature=kept)
    assert kept["text"] in printed(summary)
    assert metrics["curvature_moved_share"]["value"] == 0.25
    assert "curvature_moved_gradient_share" not in metrics
    assert "curvature_moved_share" not in summarised(review(**content)[0], content)[1]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.text(st.characters() | st.sampled_from("\x00\x07\x1b[31m\u202e]")))
def test_the_terminal_shows_texts_and_does_not_obey_them(text):
    suspect = Suspect(rank=1, example_id=text, given_label=text, predicted_label=text, reason=text)
    content = uncertain()
    summary, _ = summarised(review(**content)[0], content)
    shown = printed(summary.model_copy(update={"suspects": (suspect,)}))
    assert not {c for c in shown if unicodedata.category(c) in {"Cc", "Cs"}} - {"\n", "\t"}
    assert "\u202e" not in shown


def test_scores_that_are_all_0_are_said_to_say_nothing():
    content = uncertain()
    dead = pl.lit(0.0)
    review_list = review(**content)[0].with_columns(
        harm=dead, total_query_loss_influence=dead, suggested_action=pl.lit("keep")
    )
    summary, _ = summarised(review_list, content)
    assert summary.says_nothing
    assert "scores of the 4 training examples are 0" in printed(summary)
    harmless = review_list.with_columns(total_query_loss_influence=pl.lit(0.1))
    assert not summarised(harmless, content)[0].says_nothing


def test_self_influence_is_ranked_within_the_class_where_there_are_classes():
    table, _ = review()
    ranks = dict(table.select("example_id", "self_influence_rank").iter_rows())
    assert ranks == {"a": 2, "b": 1, "c": 2, "=d": 1}
    targets = tables(
        ["a", "b", "c"],
        [1.0, 2.0, 3.0],
        labels=["0.5", "1.5", "2.5"],
        predicted=["0", "1", "2"],
        probability=[None] * 3,
    )
    regression, _ = list_for_review(**targets, report=ReportParameters())
    assert sorted(regression["self_influence_rank"]) == [1, 2, 3]


def test_several_stages_are_named_in_one_text():
    train = tables(
        ["a", "b", "c", "=d"],
        [0.0] * 4,
        labels=["x"] * 4,
        predicted=["x"] * 4,
        probability=[0.5] * 4,
    )["train_table"]
    mixed = pl.Series("stage", [["s"], ["s", "t"], ["t"], ["s", "t"]])
    table, copy = review(train_table=train.with_columns(mixed))
    assert table["stage"].to_list() == copy["stage"].to_list() == ["s, t", "s, t", "s", "t"]


@pytest.mark.parametrize(
    "formula", ["=1+1", "  =1+1", "＝1+1", "\u00a0@x", "\u200b+1", "\t=1", "\r=1", "\x00=1", "-1+a"]
)
def test_the_copy_for_spreadsheets_holds_no_formula(formula):
    texts = pl.DataFrame({"text": [formula, "b", None]})
    copy = texts.select(spreadsheet_text(pl.col("text")))["text"].to_list()
    assert copy[0].startswith("'")
    assert "\x00" not in copy[0]
    assert copy[1:] == ["b", None]
    assert "'=d" in review()[1]["example_id"].to_list()


def test_the_copy_for_spreadsheets_has_a_column_for_the_new_labels():
    table, copy = review()
    assert table.columns == list(ReviewList.columns())
    assert copy.columns == [*table.columns, "new_label"]
    assert copy["new_label"].null_count() == copy.height


def test_a_long_label_does_not_fill_the_reason():
    content = tables(
        ["a", "b"],
        [2.0, 1.0],
        labels=["x" * 10_000] * 2,
        predicted=["y"] * 2,
        probability=[0.1] * 2,
    )
    table, _ = review(**content)
    assert len(table["reason"][0]) < 300
    assert table["given_label"][0] == "x" * 10_000


def test_numbers_of_a_regression_are_no_classes():
    ids = [f"e{i}" for i in range(20)]
    table, _ = list_for_review(
        **tables(
            ids,
            [float(20 - i) for i in range(20)],
            labels=[str(7.316761949200906 + i) for i in range(20)],
            predicted=["3.388"] * 20,
            probability=[None] * 20,
        ),
        report=ReportParameters(),
    )
    assert table["given_label"][0] == "8.316761949200906"
    assert table["reason"][0].startswith("Without this example the model would miss it by more")
    assert rounded_labels(table)["given_label"][0] == "8.317"
    # Few numbers, or such as have a probability, are classes.
    for classes in (table.head(3), table.with_columns(given_label_probability=pl.lit(0.5))):
        assert rounded_labels(classes).equals(classes)
