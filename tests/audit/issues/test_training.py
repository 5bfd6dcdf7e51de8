"""Issues of labels, pairs and forgetting: the planted are found, few others are."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_digits

from sourcetrace.audit.issues.table import issue_table
from sourcetrace.audit.issues.training import (
    conflicting_duplicates,
    forgotten_examples,
    label_issues,
    leaking_examples,
)
from sourcetrace.schemas import ExampleIssues
from sourcetrace.schemas.issues import ISSUES

MANIFEST = pl.DataFrame({"checkpoint_id": ["c1", "c2", "c3"], "run": [""] * 3})


def signals(*examples):
    """Return signals of examples e0, e1, … from (predicted, probability) at each checkpoint."""
    return pl.DataFrame(
        [
            {
                "example_id": f"e{number}",
                "checkpoint_id": f"c{place + 1}",
                "predicted_label": predicted,
                "given_label_probability": probability,
            }
            for number, points in enumerate(examples)
            for place, (predicted, probability) in enumerate(points)
        ],
        schema_overrides={"given_label_probability": pl.Float64},
    )


def labels(*values):
    return pl.DataFrame({"example_id": [f"e{i}" for i in range(len(values))], "label": values})


def scores(table):
    return dict(table.select("example_id", "score").iter_rows())


def test_what_was_predicted_once_and_is_no_more_is_forgotten():
    found = forgotten_examples(
        signals(
            [("a", 0.9), ("a", 0.8), ("b", 0.1)],  # forgotten
            [("b", 0.1), ("a", 0.6), ("a", 0.9)],  # learned
            [("b", 0.1), ("b", 0.2), ("b", 0.1)],  # never known
        ),
        MANIFEST,
        labels("a", "a", "a"),
    )
    assert scores(found) == pytest.approx({"e0": 0.8, "e1": 0, "e2": 0})


def test_without_probabilities_the_share_of_checkpoints_counts_and_runs_are_averaged():
    content = signals([("a", None), ("b", None), ("b", None)], [("a", None)] * 3)
    assert scores(forgotten_examples(content, MANIFEST, labels("a", "a"))) == {"e0": 0.5, "e1": 0}
    runs = MANIFEST.with_columns(run=pl.Series(["one", "one", "two"]))
    found = scores(forgotten_examples(content, runs, labels("a", "a")))
    assert found == {"e0": 0.5, "e1": 0}  # in the first run wholly, in the second not


def test_forgetting_of_a_training_is_found():
    """Digits are learned, and training goes on with wrong labels for noisy copies of some."""
    digits = load_digits()
    inputs = torch.tensor(digits.data[:600] / 16, dtype=torch.float32)
    given = torch.tensor(digits.target[:600])
    random = np.random.default_rng(0)
    planted = torch.from_numpy(random.choice(600, 40, replace=False))
    noise = torch.from_numpy(random.normal(0, 0.01, (40, 64))).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )
    late = (
        torch.cat([inputs, inputs[planted] + noise]),
        torch.cat([given, (given[planted] + 1) % 10]),
    )
    kept = torch.ones(640, dtype=torch.bool)
    kept[planted] = False
    stages = [(inputs, given), (inputs, given), (late[0][kept], late[1][kept])]
    rows = []
    for place, (images, targets) in enumerate(stages):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(400):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        known = model(inputs).detach().softmax(1)
        rows.append(
            pl.DataFrame(
                {
                    "example_id": [f"e{i}" for i in range(600)],
                    "checkpoint_id": [f"c{place + 1}"] * 600,
                    "predicted_label": known.argmax(1).numpy().astype(str).tolist(),
                    "given_label_probability": known[range(600), given].double().numpy(),
                }
            )
        )
    found = forgotten_examples(pl.concat(rows), MANIFEST, labels(*map(str, given.tolist())))
    flagged = {int(name[1:]) for name in found.filter(pl.col("score") >= 0.5)["example_id"]}
    right = len(flagged & set(planted.tolist()))
    assert right >= 0.8 * 40
    assert right >= 0.9 * len(flagged)


def listed(*given, probability=0.5):
    return (
        labels(*given)
        .rename({"label": "given_label"})
        .with_columns(given_label_probability=pl.lit(probability, dtype=pl.Float64))
    )


def near(*pairs):
    table = pl.DataFrame(pairs, schema=["first", "second", "similarity"], orient="row")
    return pl.concat([table, table.select(first="second", second="first", similarity="similarity")])


def test_near_duplicates_conflict_where_labels_differ():
    pairs = near(("e0", "e1", 0.999), ("e0", "e2", 0.995), ("e3", "e4", 1.0))
    found = conflicting_duplicates(pairs, listed("a", "a", "b", "c", "c"))
    assert set(found.rows()) == {("e0", 0.995, "e2"), ("e2", 0.995, "e0")}
    unlabelled = listed(*[None] * 5).cast({"given_label": pl.String})
    assert conflicting_duplicates(pairs, unlabelled).is_empty()


@pytest.mark.parametrize("values", ["aabbac", "119912"])
def test_every_one_of_equal_examples_has_the_pairs_of_the_first(values):
    """`near_pairs` pairs equal ones with the first alone."""
    pairs = near(("e0", "e1", 1.0), ("e0", "e2", 1.0), ("e0", "e4", 0.99), ("e3", "e5", 0.98))
    probability = None if values.isdigit() else 0.5
    found = conflicting_duplicates(pairs, listed(*values, probability=probability))
    expected = {("e0", 1.0, "e2"), ("e1", 1.0, "e2"), ("e2", 1.0, "e0"), ("e4", 0.99, "e2")}
    assert set(found.rows()) == expected | {("e3", 0.98, "e5"), ("e5", 0.98, "e3")}


def test_numbers_conflict_where_they_are_far_apart():
    values = [str(i / 10) for i in range(40)]
    pairs = near(("e0", "e1", 0.999), ("e0", "e39", 0.995))
    found = conflicting_duplicates(pairs, listed(*values, probability=None))
    assert set(found["example_id"]) == {"e0", "e39"}


def test_the_table_holds_every_issue_with_its_own_threshold():
    review = listed("a", "b").with_columns(
        suggested_action=pl.Series(["relabel", "keep"]),
        decision=pl.lit(None, dtype=pl.String),
        suspicion=pl.Series([0.8, 0.6]),
    )
    leaks = pl.DataFrame({"first": ["e1"], "second": ["q3"], "similarity": [1.0000001]})
    nothing = leaking_examples(leaks.clear())
    found = dict.fromkeys(ISSUES, nothing) | {
        "label": label_issues(review),
        "leakage": leaking_examples(leaks),
    }
    unlabelled = review.with_columns(given_label=pl.lit(None, pl.String))
    assert label_issues(unlabelled)["score"].null_count() == 2
    table = issue_table(found, dict.fromkeys(ISSUES, 0.9))
    ExampleIssues.validate(table)
    assert table.rows() == [
        ("e0", "label", 0.8, False, None),
        ("e1", "leakage", 1.0, True, "q3"),
    ]
