"""What cleaning gains: the same changes at random, pairs of seeds, and plain words."""

import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from sourcetrace.errors import InputError
from sourcetrace.hooks.terminal import Terminal
from sourcetrace.parameters import CleaningParameters, ReportParameters
from sourcetrace.pipelines.verification.retraining import Job
from sourcetrace.pipelines.verify_cleaning.changes import Changes
from sourcetrace.pipelines.verify_cleaning.halves import measuring, suggest_with_half
from sourcetrace.pipelines.verify_cleaning.measures import measured_gains
from sourcetrace.pipelines.verify_cleaning.nodes import measure_cleaning, plan_cleaning
from sourcetrace.reporting.cleaning import MeasuredCleaning
from sourcetrace.schemas import CleanedData, CleaningPlan, VerificationOutcomes
from tests.verifiable import EXAMPLES, QUERIES, CountingTask, exact_scores, table, write_scores

TRAIN = table("example", EXAMPLES).with_columns(stage=pl.lit(["train"], dtype=pl.List(pl.String)))


def manifest(removed=(), relabelled=()):
    label = [str(1 - i % 2) if i in relabelled else str(i % 2) for i in range(EXAMPLES)]
    return CleanedData.frame(
        (name, i, label[i], i not in removed, None) for i, name in enumerate(TRAIN["example_id"])
    )


def reviewed(actions=()):
    wanted = [dict(actions).get(i, "keep") for i in range(EXAMPLES)]
    return TRAIN.select("example_id", given_label_probability=pl.lit(0.5)).with_columns(
        suggested_label=pl.Series([str(1 - i % 2) for i in range(EXAMPLES)]),
        suggested_action=pl.Series(wanted),
        decision=pl.lit(None, pl.String),
    )


def plan(tmp_path, *, cleaned=None, actions=(), task=None, **parameters):
    files = write_scores(tmp_path / "scores", exact_scores())
    task = CountingTask(str(tmp_path)) if task is None else task
    task.relabelled = lambda labels: task
    return CleaningPlan.validate(
        plan_cleaning(
            files,
            {"scores_digest": files.digest()},
            SimpleNamespace(task=task, train_table=TRAIN),
            reviewed(actions),
            CleanedData.frame() if cleaned is None else cleaned,
            CleaningParameters(**parameters),
        )
    )


def test_decisions_are_tested_against_the_same_changes_of_the_same_classes(tmp_path):
    found = plan(tmp_path, cleaned=manifest([0, 2, 5], [4, 7]), random=2)
    assert found["group"].to_list() == ["all", "cleaned", "random-000", "random-001"]
    assert found.row(1)[2:5] == ([0, 2, 5], [4, 7], ["1", "0"])
    for row in found.filter(kind="random").iter_rows(named=True):
        assert Counter(i % 2 for i in row["removed"]) == {0: 2, 1: 1}
        changed = zip(row["relabelled"], row["new_labels"], strict=True)
        assert {i % 2: label for i, label in changed} == {0: "1", 1: "0"}
        assert not set(row["removed"]).intersection(row["relabelled"])
    assert found["removed"][2].to_list() != found["removed"][3].to_list()


def test_suggestions_are_tested_without_decisions(tmp_path):
    found = plan(tmp_path, actions={3: "remove", 8: "relabel", 9: "review"}, of="suggestions")
    assert found.row(1)[2:5] == ([3], [8], ["1"])


def test_what_cannot_be_tested_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no manifest of cleaned data of this audit's"):
        plan(tmp_path)
    with pytest.raises(InputError, match="The decisions remove and relabel nothing"):
        plan(tmp_path, cleaned=manifest())
    task = SimpleNamespace(train=print)
    with pytest.raises(InputError, match=r"SimpleNamespace has no relabelled\(labels\)"):
        plan_cleaning(
            (files := write_scores(tmp_path / "scores", exact_scores())),
            {"scores_digest": files.digest()},
            SimpleNamespace(task=task, train_table=TRAIN),
            reviewed(),
            manifest([], [1]),
            CleaningParameters(),
        )


def test_a_retraining_with_other_labels_is_another_one(tmp_path):
    plain, labelled = (
        Job.of_plan(plan(tmp_path, cleaned=one), identity="x", seeds=range(1))
        for one in (manifest([0]), manifest([0], [3]))
    )
    assert plain[0].key == labelled[0].key
    assert plain[1].key != labelled[1].key
    assert labelled[1].labels == {3: "0"}
    # As a verification knows it, which relabels nothing.
    verification = pl.DataFrame({"group": ["g"], "removed": [[0]]})
    (job,) = Job.of_plan(verification, identity="x", seeds=range(1))
    assert job.key == plain[1].key


def outcomes(groups):
    """Return outcomes of group -> seed -> measurements; every loss is half of it."""
    return VerificationOutcomes.frame(
        (name, seed, 1.0, values, ["0" if v > 0 else "1" for v in values], [v / 2 for v in values])
        for name, seeds in groups.items()
        for seed, values in enumerate(seeds)
    )


def test_gains_are_paired_by_seeds_with_students_interval():
    random = np.random.default_rng(0)
    noise = random.normal(size=(6, 1))  # which a seed has in every group
    before, after, other = (noise + random.normal(shift, 0.1, (6, 4)) for shift in (0, 1, -1))
    rows = {
        "all": before.tolist(),
        "cleaned": after.tolist(),
        "random-000": other.tolist(),
        "random-001": (other + 2).tolist(),
    }
    found = measured_gains(outcomes(rows), pl.Series([0, 0, 1, 1]), sign=1)
    mean, accuracy, loss = found
    differences = (after - before).mean(1)
    low, high = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    assert np.allclose([mean.gain, mean.low, mean.high], [differences.mean(), low, high])
    assert np.isclose(mean.random, (other + 1 - before).mean())
    assert np.isclose(mean.over_random, (after - other - 1).mean())
    assert np.isclose(loss.gain, -mean.gain / 2)
    wanted = [((np.where(one > 0, 0, 1)) == [0, 0, 1, 1]).mean() for one in (before, after)]
    assert np.allclose([accuracy.before, accuracy.after], wanted)
    without = {name: rows[name] for name in ("all", "cleaned")}
    (worse, *_) = measured_gains(outcomes(without), pl.Series(["a"] * 4), sign=-1)
    assert np.isclose(worse.gain, -mean.gain)
    assert worse.over_random is None
    numbers = measured_gains(outcomes(rows), None, sign=1)
    assert [one.measure for one in numbers] == ["measurement", "loss"]


def audited(folder, scores, query_margins, *, count=100, **of_task):
    """Return what `suggest_with_half` reads, of scores [N, Q] and the queries' margins [2, Q]."""
    random = np.random.default_rng(3)
    points, names = ["c0", "c1"], [f"example-{i}" for i in range(count)]
    wrong = np.arange(count) < 12

    def signals(ids, margins):
        return pl.DataFrame(
            {
                "example_id": list(ids) * 2,
                "checkpoint_id": np.repeat(points, len(ids)),
                "loss": np.log1p(np.exp(-margins)).ravel(),
                "predicted_label": np.where(margins > 0, "a", "b").ravel(),
                "given_label_probability": (1 / (1 + np.exp(-margins))).ravel(),
            }
        )

    queries = [f"query-{i}" for i in range(scores.shape[1])]
    table = pl.DataFrame({"example_id": names, "label": ["a"] * count})
    return {
        "ingested": SimpleNamespace(
            task=SimpleNamespace(measurement_higher_is_better=True, **of_task),
            train_table=table,
            query_table=pl.DataFrame({"example_id": queries, "label": ["a"] * len(queries)}),
            manifest=pl.DataFrame({"checkpoint_id": points, "run": ["", ""], "step": [1, 2]}),
        ),
        "score_files": write_scores(folder, scores),
        "review_list": table.select(
            "example_id",
            given_label="label",
            given_label_probability=pl.lit(0.5),
            self_influence_rank=pl.int_range(1, count + 1),
            harm=pl.lit(0.0),
            suggested_action=pl.lit("review"),
            decision=pl.lit(None, pl.String),
        ).reverse(),
        "example_signals": signals(names, random.normal(np.where(wrong, -3, 3), 1, (2, count))),
        "query_history": signals(queries, query_margins),
        "self_influence": table.select("example_id", self_influence=pl.lit(0.0)),
        "report": ReportParameters(),
        "cleaning": CleaningParameters(of="suggestions"),
    }


def test_what_measures_suggests_nothing(tmp_path):
    """Neither labels nor scores of the other half change what half of the queries suggests."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 1, (100, 120)).astype(np.float32)
    scores[:6] += 1
    margins = random.normal(3, 1, (2, 120))
    measures = measuring(pl.Series([f"query-{i}" for i in range(120)])).to_numpy()
    assert measures.sum() == 60

    def suggested(name, scores, margins):
        return suggest_with_half(**audited(tmp_path / name, scores, margins)).sort("example_id")

    found = suggested("given", scores, margins)
    shuffled = np.where(measures, random.normal(5, 9, scores.shape), scores).astype(np.float32)
    wrong = np.where(measures, -9, margins)
    assert suggested("other", shuffled, wrong).equals(found)
    assert not suggested("own", shuffled[:, ::-1], margins).equals(found)
    chosen = found.filter(suggested_action="relabel")
    assert set(chosen["example_id"]) <= {f"example-{i}" for i in range(12)}
    assert chosen.height > 8
    own = scores[:, ~measures].astype(float)
    row = found.row(by_predicate=pl.col("example_id") == "example-0", named=True)
    assert row["harm"] == pytest.approx(own[0].sum())
    assert row["harm_error"] == pytest.approx(np.sqrt(60) * own[0].std(ddof=1))


def test_queries_are_split_where_nothing_else_measures_suggestions(tmp_path):
    scores, margins = np.zeros((100, 120), np.float32), np.zeros((2, 120))
    held_out = audited(tmp_path / "a", scores, margins, holdout_table=lambda: "a table")
    assert suggest_with_half(**held_out) is held_out["review_list"]
    decided = audited(tmp_path / "b", scores, margins) | {"cleaning": CleaningParameters()}
    assert suggest_with_half(**decided) is decided["review_list"]
    with pytest.raises(InputError, match="A single query cannot both suggest changes and measure"):
        suggest_with_half(**audited(tmp_path / "c", scores[:, :1], margins[:, :1]))


def test_the_other_half_of_the_queries_measures(tmp_path):
    queries = table("query", QUERIES)
    measures = measuring(queries["example_id"]).to_numpy()
    assert measures.tolist() != sorted(measures)  # not by place
    gains = np.where(measures, 1.0, 100.0)
    rows = {"all": np.zeros((3, QUERIES)).tolist(), "cleaned": np.tile(gains, (3, 1)).tolist()}
    found, _ = measure_cleaning(
        write_scores(tmp_path / "scores", exact_scores()),
        plan(tmp_path, actions={0: "remove", 2: "remove"}, of="suggestions", random=0),
        outcomes(rows),
        SimpleNamespace(
            task=SimpleNamespace(measurement_higher_is_better=True), query_table=queries
        ),
        pl.DataFrame({"given_label_probability": [0.5]}),
        CleaningParameters(of="suggestions", seeds=3, random=0),
    )
    found = MeasuredCleaning.from_json(found)
    assert [one.gain for one in found.gains if one.measure != "accuracy"] == [1.0, -0.5]
    assert found.predicted == pytest.approx(float(exact_scores()[[0, 2]].sum(0)[measures].mean()))
    half = "Suggested by half of the queries, and measured on the other 3."
    assert list(found.sentences())[-1] == half


def measured(tmp_path, shift, *, holdout=False):
    task = SimpleNamespace(measurement_higher_is_better=True)
    queries = table("query", QUERIES)
    if holdout:
        task.holdout_table = lambda: queries.head(4)
    size = 4 if holdout else QUERIES
    noise = np.random.default_rng(1).normal(0, 0.1, (3, size))
    rows = {"all": [[0.0] * size] * 3, "cleaned": (noise + shift).tolist()}
    found, metrics = measure_cleaning(
        write_scores(tmp_path / "scores", exact_scores()),
        plan(tmp_path, cleaned=manifest([0, 2]), random=0),
        outcomes(rows).with_columns(predicted_labels=None, losses=None),
        SimpleNamespace(task=task, query_table=queries),
        pl.DataFrame({"given_label_probability": [0.5]}),
        CleaningParameters(seeds=3, random=0),
    )
    return MeasuredCleaning.from_json(found), metrics


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(1.0, "Cleaning helps"), (0.0, "No gain is shown"), (-1.0, "Cleaning hurts")],
)
def test_the_verdict_is_said_plainly(tmp_path, shift, verdict):
    found, metrics = measured(tmp_path, shift)
    said = list(found.sentences())
    assert said[0].startswith(f"{verdict}: ")
    assert "2 removed and 0 relabelled by decisions" in said[0]
    assert said[-1].startswith(f"Measured on the {QUERIES} queries that selected the suspects")
    assert found.predicted == pytest.approx(float(exact_scores()[[0, 2]].sum(0).mean()))
    assert metrics["measurement_gain"]["value"] == pytest.approx(shift, abs=0.1)
    console = io.StringIO()
    Terminal(Console(file=console, width=500)).print_sentences(said, files={})
    assert verdict in console.getvalue()
    assert found.table().rows[0][0] == "mean measurement"


@pytest.mark.parametrize("changes", [([], [1]), ([0], [1])])
def test_training_that_does_not_read_new_labels_is_refused(tmp_path, changes):
    removed, relabelled = changes
    arguments = [
        write_scores(tmp_path / "scores", exact_scores()),
        plan(tmp_path, cleaned=manifest(removed, relabelled), random=0),
    ]
    ingested = SimpleNamespace(
        task=SimpleNamespace(measurement_higher_is_better=True), query_table=table("query", QUERIES)
    )
    signals = pl.DataFrame({"given_label_probability": [0.5]})
    same = [[float(seed)] * QUERIES for seed in range(2)]
    other = [same[0], [2.0] * QUERIES]
    for cleaned in (same, other):
        given = [*arguments, outcomes({"cleaned": cleaned, "all": same}), ingested, signals]
        if cleaned is same and not removed:
            with pytest.raises(InputError, match=r"train\(\) does not read them"):
                measure_cleaning(*given, CleaningParameters(seeds=2, random=0))
        else:
            measure_cleaning(*given, CleaningParameters(seeds=2, random=0))


def test_held_out_examples_are_measured_where_the_task_has_them(tmp_path):
    found, _ = measured(tmp_path, 1.0, holdout=True)
    assert list(found.sentences())[-1] == "Measured on 4 held-out examples."


def test_decisions_are_of_what_the_review_list_has():
    train = pl.DataFrame({"example_id": ["a", "b", "c", "d"], "label": ["0", "0", "1", "1"]})
    cleaned = pl.DataFrame(
        {"example_id": ["a", "c", "d"], "index": [0, 2, 3]},
    ).with_columns(label=pl.Series(["1", "1", "1"]), keep=pl.Series([True, False, True]))
    listed = pl.DataFrame({"example_id": ["d", "a", "c"]})
    assert Changes.decided(train, cleaned, listed) == Changes([2], {0: "1"})
    with pytest.raises(InputError, match="There is no manifest"):
        Changes.decided(train, cleaned, train)


def test_changes_are_drawn_again_from_the_same_seed():
    changes = Changes([1, 3], {4: "1"})
    classes = pl.Series([str(i % 2) for i in range(EXAMPLES)])
    assert changes.at_random(classes, seed=[0, 1]) == changes.at_random(classes, seed=[0, 1])
