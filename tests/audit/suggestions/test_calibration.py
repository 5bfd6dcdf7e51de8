"""Decisions make a probability of the suspicion, and a precision of the flags."""

import numpy as np
import polars as pl
import pytest

from sourcetrace.audit.suggestions.calibration import FlagPrecision, error_probability


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


def test_the_precision_of_the_flags_counts_decided_suspects():
    table, decisions = decided(1000)
    flagged = table.filter(pl.col("suggested_action") != "keep")["example_id"]
    told = decisions.filter(pl.col("example_id").is_in(flagged.implode())).head(40)
    unsure = told.head(1).with_columns(decision=pl.lit("unsure"))
    found = FlagPrecision.of(table, pl.concat([told.tail(39), unsure]))
    wrong = told.tail(39).filter(pl.col("decision") != "keep").height
    assert (found.wrong, found.decided, found.value) == (wrong, 39, wrong / 39)
    # Wilson's interval written out.
    z, n, p = 1.959964, 39, wrong / 39
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert FlagPrecision.of(table, decisions.head(0)).value is None
