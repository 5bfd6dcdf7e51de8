"""The loop on the demo: audit, decide, apply, measure, train on the manifest, audit again."""

import json

import polars as pl
import pytest

from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.parameters import DemoParameters
from sourcetrace.pipelines.demo_training.nodes import train_network
from sourcetrace.schemas.review import is_suspect
from tests.test_commands import kedro

pytestmark = pytest.mark.slow


def run(project, pipeline, **parameters):
    given = [f"{name.replace('__', '.')}={value}" for name, value in parameters.items()]
    more = ["--params", ",".join(given)] if given else []
    finished = kedro(project, "run", "--pipelines", pipeline, *more)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return " ".join(finished.stdout.split())


def decided(data):
    """Return decisions as somebody who knows the planted errors takes them, in an edited list."""
    review = pl.read_csv(data / "08_reporting/review_list.csv", infer_schema=False)
    truth = pl.read_parquet(data / "01_raw/digits_answer_key/planted_label_errors.parquet")
    suspects = review.filter(pl.col("suggested_action") != "keep").join(
        truth, on="example_id", how="left", maintain_order="left"
    )
    wrong = pl.col("true_label").is_not_null()
    third = pl.int_range(pl.len()) % 3 == 0
    decision = (
        pl.when(~wrong).then(pl.lit("keep")).when(third).then(pl.lit("remove")).otherwise(None)
    )
    decision = decision.fill_null("relabel")
    label = pl.when(decision == "relabel").then(pl.col("true_label").cast(pl.String))
    return suspects.with_columns(decision=decision, new_label=label)


def test_what_was_decided_comes_back_and_is_not_asked_again(short_demo, tmp_path):
    project = tmp_path / "the loop"
    short_demo(project)
    data = project / "data"
    decisions = decided(data)
    counts = dict(decisions["decision"].value_counts().iter_rows())
    assert set(counts) == {"keep", "remove", "relabel"}
    decisions.write_csv(project / "edited.csv", separator=";", line_terminator="\r\n")

    said = run(project, "apply_decisions", decisions__path="edited.csv", decisions__by="Ann")
    assert f"{decisions.height} decisions added" in said
    errors = counts["remove"] + counts["relabel"]
    assert f"that somebody decided on, not a random draw, {errors} are errors" in said
    log = (data / "08_reporting/decisions.jsonl").read_bytes()
    said = run(project, "apply_decisions", decisions__path="edited.csv", decisions__sample=10)
    assert f"0 decisions added; {decisions.height} rows said nothing new." in said
    assert (data / "08_reporting/decisions.jsonl").read_bytes() == log
    assert len((data / "08_reporting/review_sample.csv").read_text().splitlines()) == 11

    said = run(project, "verify_cleaning", cleaning__seeds=2, cleaning__random=1)
    assert f"{counts['remove']} removed and {counts['relabel']} relabelled by decisions" in said
    gains = json.loads((data / "08_reporting/cleaning_result.json").read_text())["gains"]
    assert [one["measure"] for one in gains] == ["measurement", "accuracy", "loss"]
    assert gains[2]["over_random"] > 0
    page = (data / "08_reporting/cleaning_report.html").read_text()
    assert "queries that selected the suspects" in page

    # The training reads the manifest.
    manifest = pl.read_parquet(data / "08_reporting/cleaned_data.parquet")
    given = pl.read_parquet(data / "01_raw/digits/training_set.parquet")
    cleaned = given.with_columns(label=manifest["label"].cast(pl.Int64)).filter(manifest["keep"])
    cleaned.write_parquet(data / "01_raw/digits/training_set.parquet")
    queries = pl.read_parquet(data / "01_raw/digits/query_set.parquet")
    checkpoints, *_ = train_network(cleaned, queries, DemoParameters(epochs=2, checkpoints=2))
    CheckpointsDataset(str(data / "01_raw/checkpoints")).save(checkpoints)

    said = run(project, "audit")
    told = said.split("Compared:")[1]
    assert f"{counts['remove']} removed, {counts['keep']} decided to be kept)" in told
    review = pl.read_parquet(data / "08_reporting/review_list.parquet")
    kept = decisions.filter(decision="keep")["example_id"]
    again = review.filter(pl.col("example_id").is_in(kept.implode()))
    assert again["decision"].to_list() == ["keep"] * len(kept)
    assert again["reason"].str.starts_with("Kept by Ann on 20").all()
    suspects = set(review.filter(is_suspect())["example_id"])
    assert not suspects.intersection(kept)
    comparison = pl.read_parquet(data / "08_reporting/audit_comparison.parquet")
    became = comparison.join(decisions.select("example_id", said="decision"), on="example_id")
    assert set(became.filter(said="keep")["status"]) == {"resolved"}
    assert set(became.filter(said="remove").select("status", "change").iter_rows()) == {
        ("resolved", "removed")
    }
    assert set(became.filter(said="relabel")["change"]) == {"relabelled"}
    run(project, "apply_decisions")
    manifest = pl.read_parquet(data / "08_reporting/cleaned_data.parquet")
    assert manifest.filter(~pl.col("keep")).height == counts["remove"]
