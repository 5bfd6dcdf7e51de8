"""The loop on the demo: audit, decide in Chromium, apply, measure, train on it, audit again."""

import json

import polars as pl
import pytest

from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.parameters import DemoParameters
from sourcetrace.pipelines.demo_training.nodes import train_network
from sourcetrace.schemas.review import is_suspect
from tests.test_commands import kedro

pytestmark = [pytest.mark.slow, pytest.mark.browser]

REPORT = "data/08_reporting/cleaning_report.html"


def run(project, pipeline, **parameters):
    given = [f"{name.replace('__', '.')}={value}" for name, value in parameters.items()]
    more = ["--params", ",".join(given)] if given else []
    finished = kedro(project, "run", "--pipelines", pipeline, *more)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return " ".join(finished.stdout.split())


def true_labels(project):
    file = project / "data/01_raw/digits_answer_key/planted_label_errors.parquet"
    return dict(pl.read_parquet(file).select("example_id", "true_label").iter_rows())


def apply(page, decision):
    page.get_by_label("Decision for the selected rows").select_option(decision)
    page.get_by_role("button", name="Apply to selected").click()


def exported(page, truth, file):
    """Decide as somebody who knows the planted errors, and return the file that the page gives."""
    suspects = page.locator("table.suspects tbody tr:visible")
    names = suspects.locator("code").all_inner_texts()
    wrong = [name for name in names if name in truth]
    by_hand, removed, unsure = wrong[0], wrong[1::3], wrong[2]
    page.get_by_label("Suggested").select_option("relabel")
    page.get_by_label("Select all rows shown").check()
    apply(page, "relabel")
    page.get_by_role("button", name="Clear").click()
    kept = [name for name in names if name not in truth]
    for decision, chosen in {"keep": kept, "remove": removed, "unsure": [unsure]}.items():
        for name in chosen:
            page.get_by_label(f"Select {name}", exact=True).check()
        assert f"{len(chosen)} selected" in page.locator(".decide").inner_text()
        apply(page, decision)
    page.get_by_label("Search").fill(by_hand)
    assert suspects.count() == 1
    suspects.get_by_label("Decision for").select_option("relabel")
    suspects.get_by_label("New label for").select_option(str(truth[by_hand]))
    suspects.get_by_placeholder("note").fill("=A1, by hand")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export decisions.csv").click()
    download.value.save_as(file)
    decisions = pl.read_csv(file, infer_schema=False).fill_null("")
    said = dict(decisions.select("example_id", "decision").iter_rows())
    assert said == {
        **dict.fromkeys(said, "relabel"),
        **dict.fromkeys(kept, "keep"),
        **dict.fromkeys(removed, "remove"),
        unsure: "unsure",
    }
    assert decisions.filter(example_id=by_hand)["new_label"].item() == str(truth[by_hand])
    return decisions


def train_again(data):
    """Train as the audited model was, on what the manifest says."""
    manifest = pl.read_parquet(data / "08_reporting/cleaned_data.parquet")
    given = pl.read_parquet(data / "01_raw/digits/training_set.parquet")
    cleaned = given.with_columns(label=manifest["label"].cast(pl.Int64)).filter(manifest["keep"])
    cleaned.write_parquet(data / "01_raw/digits/training_set.parquet")
    queries = pl.read_parquet(data / "01_raw/digits/query_set.parquet")
    checkpoints, *_ = train_network(cleaned, queries, DemoParameters(epochs=2, checkpoints=2))
    CheckpointsDataset(str(data / "01_raw/checkpoints")).save(checkpoints)


def test_what_was_decided_in_the_browser_comes_back_and_is_not_asked_again(
    short_demo, visit, tmp_path
):
    project = tmp_path / "the loop"
    short_demo(project)
    data = project / "data"
    page = visit(project / REPORT)
    decisions = exported(page, true_labels(project), project / "decisions.csv")
    page.context.close()
    counts = dict(decisions["decision"].value_counts().iter_rows())

    said = run(project, "apply_decisions", decisions__path="decisions.csv", decisions__by="Ann")
    assert f"{decisions.height} decisions added" in said
    errors = counts["remove"] + counts["relabel"]
    assert f"that somebody decided on, not a random draw, {errors} are errors" in said
    assert "Out of date" in (project / REPORT).read_text()
    log = (data / "08_reporting/decisions.jsonl").read_bytes()
    assert b'"note":"=A1, by hand"' in log.replace(b'": "', b'":"')

    said = run(project, "verify_cleaning", cleaning__seeds=2, cleaning__random=1)
    assert f"{counts['remove']} removed and {counts['relabel']} relabelled by decisions" in said
    gains = json.loads((data / "08_reporting/cleaning_result.json").read_text())["gains"]
    assert [one["measure"] for one in gains] == ["measurement", "accuracy", "loss"]
    assert gains[2]["over_random"] > 0
    gained = visit(project / REPORT).locator("#cleaning")
    assert "queries that selected the suspects" in gained.inner_text()
    assert gained.get_by_role("row").count() == 1 + len(gains)

    train_again(data)

    said = run(project, "audit")
    told = f"{counts['remove']} removed, {counts['keep']} decided to be kept)"
    assert told in said.split("Compared:")[1]
    review = pl.read_parquet(data / "08_reporting/review_list.parquet")
    kept = decisions.filter(decision="keep")["example_id"]
    again = review.filter(pl.col("example_id").is_in(kept.implode()))
    assert again["decision"].to_list() == ["keep"] * len(kept)
    assert again["reason"].str.starts_with("Kept by Ann on 20").all()
    suspects = set(review.filter(is_suspect())["example_id"])
    comparison = pl.read_parquet(data / "08_reporting/audit_comparison.parquet")
    became = comparison.join(decisions.select("example_id", said="decision"), on="example_id")
    assert set(became.filter(said="keep")["status"]) == {"resolved"}
    assert set(became.filter(said="remove").select("status", "change").iter_rows()) == {
        ("resolved", "removed")
    }
    assert set(became.filter(said="relabel")["change"]) == {"relabelled"}
    page = visit(project / REPORT)
    assert told in page.locator("#changes").inner_text()
    shown = set(page.locator("table.suspects tbody code").all_inner_texts())
    assert shown == suspects
    assert not shown.intersection(
        decisions.filter(pl.col("decision").is_in(["keep", "remove"]))["example_id"]
    )

    said = run(project, "apply_decisions", decisions__path="decisions.csv", decisions__sample=10)
    assert f"0 decisions added; {decisions.height} rows said nothing new." in said
    assert (data / "08_reporting/decisions.jsonl").read_bytes() == log
    assert len((data / "08_reporting/review_sample.csv").read_text().splitlines()) == 11
    manifest = pl.read_parquet(data / "08_reporting/cleaned_data.parquet")
    assert manifest.filter(~pl.col("keep")).height == counts["remove"]
