"""Decisions make a probability of the suspicion."""

import numpy as np
import polars as pl
import pytest

from sourcetrace.audit.suggestions.calibration import error_probability


def decided(count, *, seed=0):
    """Return a list and decisions; an example is wrong with probability suspicion²."""
    random = np.random.default_rng(seed)
    suspicion = random.uniform(size=count)
    wrong = random.uniform(size=count) < suspicion**2
    names = [f"e{i}" for i in range(count)]
    table = pl.DataFrame(
        {
            "example_id": names,
            "suspicion": suspicion,
            "suggested_action": np.where(suspicion > 0.8, "review", "keep"),
        }
    )
    decisions = np.where(wrong, np.where(suspicion > 0.5, "relabel", "remove"), "keep")
    return table, pl.DataFrame({"example_id": names, "decision": decisions})


@pytest.mark.parametrize("count", [100, 2000])
def test_the_probability_follows_the_share_of_wrong_labels_and_never_falls(count):
    table, decisions = decided(count)
    table = table.sort("suspicion")
    found = error_probability(table, decisions)
    assert (found.diff().drop_nulls() >= 0).all()
    assert found.is_between(0, 1).all()
    assert found.mean() == pytest.approx(1 / 3, abs=0.1)
    error = (found - table["suspicion"] ** 2).abs().mean()
    assert error < (0.15 if count == 100 else 0.05)


@pytest.mark.parametrize(
    "decision", [["keep"] * 100, ["unsure"] * 100, ["keep"] * 98 + ["remove"] * 2]
)
def test_nothing_is_said_from_few_decisions(decision):
    table, _ = decided(100)
    decisions = pl.DataFrame({"example_id": table["example_id"], "decision": decision})
    assert error_probability(table, decisions).is_null().all()
    few = decided(19)
    assert error_probability(*few).is_null().all()


def test_a_suspicion_that_misleads_gives_one_probability_for_all():
    table, decisions = decided(100)
    turned = table.with_columns(suspicion=1 - pl.col("suspicion"))
    found = error_probability(turned, decisions)
    share = (decisions["decision"] != "keep").mean()
    assert found.to_list() == pytest.approx([share] * 100)
