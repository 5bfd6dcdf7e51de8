"""The share of errors among suspects, against the published formula, from a fair sample."""

import numpy as np
import polars as pl
import pytest
from tests.audit.decisions.examples import decide, examples, written

from sourcetrace.audit.decisions.precision import (
    ErrorShare,
    draw_sample,
    error_shares,
    refuse_to_overwrite,
)
from sourcetrace.audit.decisions.spreadsheet import read_decisions_file
from sourcetrace.audit.decisions.standing import standing_decisions
from sourcetrace.errors import InputError
from sourcetrace.schemas.decisions import DecisionsFile


@pytest.mark.parametrize(("wrong", "decided"), [(0, 10), (3, 10), (10, 10), (51, 230)])
def test_the_interval_is_wilsons(wrong, decided):
    said = ["remove"] * wrong + ["keep"] * (decided - wrong) + ["unsure", None]
    found = ErrorShare.of(pl.Series(said))
    z, n, p = 1.959964, decided, wrong / decided
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.wrong, found.decided) == (wrong, decided)
    assert np.allclose((found.low, found.high), (middle - half, middle + half), atol=1e-6)


def test_without_decisions_the_share_may_be_anything():
    assert ErrorShare.of(pl.Series([None, "unsure"])) == ErrorShare(0, 0, 0.0, 1.0)


@pytest.mark.parametrize(("size", "suspects"), [(6, 3), (30, 10), (18, 9), (99, 10)])
def test_a_sample_has_as_many_suspects_as_others_where_there_are(size, suspects):
    table = examples({f"{i}": "3" for i in range(40)}, flagged=10)
    sample = draw_sample(table, size, seed=1, scores_digest="aa")
    assert sample.columns[:6] == list(DecisionsFile.columns())
    assert sample.height == min(size, 40)
    assert sample["example_id"].n_unique() == sample.height
    assert sample.filter(pl.col("index") < 10).height == suspects
    assert sample.equals(draw_sample(table, size, seed=1, scores_digest="aa"))
    assert draw_sample(table, 0, seed=1, scores_digest="aa").is_empty()


def test_only_what_was_drawn_counts_where_a_sample_was_drawn():
    table = examples({f"{i}": "3" for i in range(8)}, flagged=5)
    rows = [
        ("0", "relabel", {"new_label": "8"}),
        ("1", "remove", {}),
        ("2", "keep", {}),
        ("3", "unsure", {}),
        ("6", "keep", {}),
        ("7", "remove", {}),
    ]
    standing = standing_decisions(table, decide(table, *rows))
    found = error_shares(table, standing, None)
    assert {name: (one.wrong, one.decided) for name, one in found.items()} == {"suspects": (2, 3)}
    sample = table.filter(pl.col("example_id").is_in(["0", "2", "4", "6"]))
    found = error_shares(table, standing, sample.select("content_digest"))
    assert {name: (one.wrong, one.decided) for name, one in found.items()} == {
        "suspects": (1, 2),
        "others": (0, 1),
    }


@pytest.mark.parametrize(
    ("filled", "kept"),
    [
        (("1", "relabel", {"new_label": " 8 ", "note": "so"}), True),
        (("1", "relabel", {}), True),  # as the draw filled it in
        (("2", "", {}), True),
        (("2", "keep", {}), False),
        (("2", "", {"note": "ask Bo"}), False),
        (("1", "relabel", {"new_label": "9"}), False),
        (("copy", "relabel", {"new_label": "8", "note": "so"}), False),
    ],
)
def test_a_sample_is_overwritten_only_where_the_log_says_all_of_it(filled, kept):
    table = examples({"1": "3", "2": "3", "copy": "3"}, contents={"copy": "1"})
    log = decide(table, ("1", "relabel", {"new_label": "8", "note": "so"}))
    sample = read_decisions_file(written(table, filled, ("2", "", {})), called="")
    if kept:
        refuse_to_overwrite(sample, log)
    else:
        with pytest.raises(InputError, match=rf"1 row .* not handed in \({filled[0]}\); another"):
            refuse_to_overwrite(sample, log)


@pytest.mark.parametrize(
    ("later", "decision"),
    [
        ({"1": "3", "copy": "3", "2": "3"}, ("1", "keep", {"note": "so"})),
        ({"1": "3", "copy": "3", "2": "3"}, ("1", "remove", {})),
        ({"1": "8", "copy": "8", "2": "3"}, ("1", "relabel", {"new_label": "8"})),  # carried out
    ],
)
def test_a_sample_that_nobody_filled_in_can_be_drawn_again(later, decision):
    contents = {"copy": "1"}
    log = decide(examples(dict.fromkeys(later, "3"), contents=contents), decision)
    table = examples(later, contents=contents)
    standing = standing_decisions(table, log)["decision"]
    drawn = draw_sample(table.with_columns(standing), 3, seed=0, scores_digest="aa")
    sample = read_decisions_file(drawn.write_csv().encode(), called="")
    assert (sample["decision"] != "").any()
    refuse_to_overwrite(sample, log)
    other = sample.with_columns(decision=pl.lit("unsure"))
    with pytest.raises(InputError, match="3 rows"):
        refuse_to_overwrite(other, log)
    refuse_to_overwrite(other, log, other)  # as they are handed in
