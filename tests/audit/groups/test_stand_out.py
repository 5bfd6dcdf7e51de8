"""Groups: the planted ones are found, chance is not, and their errors are of the whole group."""

import numpy as np
import polars as pl
import pytest
from tests.audit.groups.examples import alone, audit

from sourcetrace.audit.groups.stand_out import suspect_groups
from sourcetrace.schemas import GroupSuspects, SuspectGroups

COUNT = 400


def drawn(seed=0, classes=5):
    """Return a generator, labels in equal numbers and harms that know nothing of them."""
    rng = np.random.default_rng(seed)
    return rng, rng.permutation(np.arange(COUNT) % classes), rng.normal(0, 1, COUNT)


def found(content, clusters=None):
    groups, suspects = suspect_groups(
        **content, clusters=alone(COUNT) if clusters is None else clusters
    )
    SuspectGroups.validate(groups)
    GroupSuspects.validate(suspects)
    return groups, suspects


def exchanged(labels, rows, by):
    """Return labels as the model would say them where those of some rows were exchanged."""
    predicted = labels.copy()
    predicted[rows] = by
    return predicted


def test_a_slice_with_more_suspects_than_chance_is_found_and_no_other():
    rng, labels, harm = drawn()
    scraped = rng.random(COUNT) < 0.1
    harm[scraped] += 2
    content = audit(
        labels,
        labels,
        harm,
        source=np.where(scraped, "scraper", "lab").tolist(),
        age=rng.normal(40, 10, COUNT).tolist(),
    )
    groups, suspects = found(content)
    assert groups["name"].to_list() == ["source: scraper"]
    row, worst = groups.row(0, named=True), content["review_list"]["example_id"]
    inside = set(content["train_table"].filter(source="scraper")["example_id"])
    assert row["examples"] == scraped.sum()
    assert row["members"] == [name for name in worst if name in inside][:3]
    listed = content["review_list"].filter(pl.col("suggested_action") != "keep")["example_id"]
    assert suspects["example_id"].to_list() == [name for name in listed if name in inside]
    assert row["suspects"] == suspects.height
    assert row["expected"] == pytest.approx(40 * scraped.sum() / COUNT)


def test_the_error_is_of_the_sum_because_members_share_the_queries():
    _, labels, harm = drawn()
    harm[:40] += 4
    content = audit(labels, labels, harm, part=["a"] * 40 + ["b"] * 360)
    row = found(content)[0].row(0, named=True)
    scores = np.concatenate([block for _, block in content["scores"]])[:40]
    by_query = scores.sum(0)
    error = np.hypot(np.sqrt(7) * by_query.std(ddof=1), 40 * 0.1)
    assert row["name"] == "part: a"
    assert row["harm"] == pytest.approx(by_query.sum())
    assert row["harm_error"] == pytest.approx(error)
    # Where scores are not kept it is the most that it can be.
    most = found(content | {"scores": []})[0].row(0, named=True)
    single = np.sqrt(7) * scores.std(1, ddof=1).sum()
    assert most["harm_error"] == pytest.approx(np.hypot(single, 40 * 0.1))
    assert error < most["harm_error"] < 2 * error
    # As if they shared none, it would be smaller by far.
    assert error > 2 * np.sqrt((7 * scores.var(1, ddof=1) + 0.1**2).sum())


def test_one_pair_of_labels_is_told_from_labels_exchanged_at_random():
    rng, labels, harm = drawn()
    wrong = rng.choice(COUNT, 40, replace=False)
    harm[wrong] += 5
    other = (labels[wrong] + rng.integers(1, 5, 40)) % 5
    assert found(audit(labels, exchanged(labels, wrong, other), harm))[0].is_empty()
    _, labels, harm = drawn(1)
    three = np.flatnonzero(labels == 3)[:12]
    harm[three] += 8
    content = audit(labels, exchanged(labels, three, 1), harm)
    pair = found(content)[0].filter(kind="label_pair").row(0, named=True)
    assert (pair["name"], pair["suspects"], pair["examples"]) == ("3 → 1", 12, 12)


@pytest.mark.parametrize(("one_sided", "names"), [(False, []), (True, ["1 → 0"])])
def test_of_two_classes_a_pair_stands_out_where_errors_go_one_way(one_sided, names):
    _, labels, harm = drawn(classes=2)
    wrong = np.flatnonzero(labels == 1)[:40] if one_sided else np.arange(40)
    harm[wrong] += 6
    groups, _ = found(audit(labels, exchanged(labels, wrong, 1 - labels[wrong]), harm))
    assert groups.filter(kind="label_pair")["name"].to_list() == names


def test_chance_is_rarely_taken_for_more():
    listed = 0
    for seed in range(60):
        rng, labels, harm = drawn(seed)
        columns = {name: rng.integers(0, 8, COUNT).tolist() for name in "abc"}
        listed += not found(audit(labels, labels, harm, **columns))[0].is_empty()
    assert listed <= 6  # 5 % of 60 are 3


def test_numbers_are_cut_and_what_is_no_slice_is_left():
    rng, labels, harm = drawn()
    age = rng.normal(40, 10, COUNT)
    harm[age < np.quantile(age, 0.2)] += 2
    content = audit(
        labels,
        labels,
        harm,
        age=age.tolist(),
        day=pl.Series(range(COUNT)).cast(pl.Date),
        text=[f"text {i}" for i in range(COUNT)],
        vector=[[0.0, 1.0]] * COUNT,
        empty=[None] * COUNT,
    )
    groups, _ = found(content)
    assert groups.height == 1
    low, high = groups["name"][0].removeprefix("age: ").split(" to ")
    assert float(low) == pytest.approx(age.min(), rel=1e-3)
    assert float(high) == pytest.approx(np.quantile(age, 0.2), rel=2e-2)


def test_targets_of_a_regression_are_cut_too():
    rng, _, harm = drawn()
    target = rng.normal(0, 1, COUNT)
    harm[target > np.quantile(target, 0.8)] += 2
    content = audit(target, target, harm)
    content["review_list"] = content["review_list"].with_columns(
        given_label_probability=pl.lit(None, dtype=pl.Float64)
    )
    groups, _ = found(content)
    assert groups["kind"].to_list() == ["slice"]
    assert groups["name"][0].startswith("label: ")


def test_a_cluster_whose_members_are_suspects_is_found():
    _, labels, harm = drawn()
    harm[100:108] += 20
    clusters = pl.Series([None] * 100 + ["example-0100"] * 8 + ["example-0200"] * 8 + [None] * 284)
    groups, suspects = found(audit(labels, labels, harm), clusters)
    assert groups.select("kind", "name").row(0) == ("near_duplicates", "example-0100")
    assert groups["suspects"][0] == suspects.height == 8


def test_where_no_sign_is_stable_nothing_stands_out():
    _, labels, harm = drawn()
    harm[:40] += 4
    content = audit(labels, labels, harm, part=["a"] * 40 + ["b"] * 360)
    content["review_list"] = content["review_list"].with_columns(sign_stable=False)
    groups, suspects = found(content)
    assert groups.is_empty()
    assert suspects.is_empty()


def test_where_there_is_nothing_to_group_by_nothing_stands_out():
    _, labels, harm = drawn()
    content = audit(labels, labels, harm)
    nobody = pl.lit(None, pl.String)
    content["review_list"] = content["review_list"].with_columns(
        given_label=nobody, predicted_label=nobody
    )
    content["train_table"] = content["train_table"].with_columns(
        label=nobody, stage=pl.lit([], pl.List(pl.String))
    )
    groups, suspects = found(content)
    assert groups.is_empty()
    assert suspects.is_empty()
