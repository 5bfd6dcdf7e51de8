"""Where few examples come or go, their curvature stands if it may, and new ones alone are done."""

import multiprocessing
import shutil

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from sourcetrace.pipelines.ekfac_fitting.nodes import describe_curvature
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.source_scoring.work import score, scorer_of
from sourcetrace.work.ledger import Ledger
from tests.pipelines.gradient_extraction.test_work import Killed
from tests.pipelines.source_scoring.test_work import EXAMPLES
from tests.pipelines.test_changed_data import (
    POINTS,
    Audits,
    Changed,
    Unusable,
    check,
    ordered,
)

THEN = range(EXAMPLES - 1)
NOW = [number for number in range(EXAMPLES) if number not in (4, 9)]
NEW = EXAMPLES - 1
MOVED = 3 / len(THEN)


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    return Audits(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def before(audits, tmp_path_factory):
    """The audit of the data before, and the folder of its units."""
    folder = tmp_path_factory.mktemp("before")
    return audits.run(Changed(order=THEN), Ledger(folder / "units")), folder


@pytest.fixture
def kept(before, tmp_path):
    return shutil.copytree(before[1], tmp_path / "kept") / "units"


def rows_of(result, name, *numbers):
    own = pl.col("example_id").is_in([f"e{number}" for number in numbers])
    return ordered(result.rows[name].filter(own))


def check_kept(found, before):
    """Fail unless all that was known of the examples is as it was, and of no other is more."""
    assert found.curvature == before.curvature
    for name in found.rows:
        assert_frame_equal(
            rows_of(found, name, *NOW[:-1]), rows_of(before, name, *NOW[:-1]), check_exact=True
        )
    assert found.rows["attribution_scores"]["example_id"].to_list() == [f"e{one}" for one in NOW]


@pytest.mark.parametrize(("range_size", "groups"), [(8, 1), (EXAMPLES, 3)])
def test_new_examples_alone_are_computed_with_the_curvature_before(
    audits, tmp_path, range_size, groups
):
    options = {"range_size": range_size, "groups": groups}
    setup = audits.set_up(Changed(order=THEN), Ledger(tmp_path / "kept" / "units"), **options)
    curvature = fit(setup).curvature
    then = audits.run(Changed(order=THEN), Ledger(tmp_path / "kept" / "units"), **options)
    # As in the test of labels; of the second point, too, the example is new.
    units = 2 * POINTS + groups + (2 * groups if groups > 1 else 0) + (3 if range_size == 8 else 1)
    ledger = Killed(tmp_path / "kept" / "units", units)
    found = audits.run(Changed(order=NOW), ledger, kept_curvature=MOVED, **options)
    assert ledger.left == 0
    check_kept(found, then)
    own = audits.set_up(Changed(order=NOW), Ledger(tmp_path / "own"), **options)
    blocks = own.engine.blocks()
    scorer = scorer_of(own, curvature, own.queries, own.engine.coverage.layers)
    expected = torch.cat([scorer.scores(one).shares.sum(0)[:-1] for one in blocks], 1)[:, -1]
    scores = rows_of(found, "attribution_scores", NEW)["scores"].to_torch()
    # A score is a share of the mean over the curvature's examples.
    torch.testing.assert_close(scores, expected * len(NOW) / len(THEN), rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.99 * MOVED])
def test_beyond_the_share_all_is_computed(audits, kept, tmp_path, share):
    found = audits.run(Changed(order=NOW), Ledger(kept), kept_curvature=share)
    check(found, audits.run(Changed(order=NOW), Ledger(tmp_path / "full")))


def test_small_changes_add_up(audits, before, kept, tmp_path):
    first = audits.run(Changed(order=THEN[1:]), Ledger(kept), kept_curvature=1.9 / len(THEN))
    assert first.curvature == before[0].curvature
    found = audits.run(Changed(order=THEN[2:]), Ledger(kept), kept_curvature=1.9 / len(THEN))
    check(found, audits.run(Changed(order=THEN[2:]), Ledger(tmp_path / "full")))


class Hoarding(Ledger):
    """A ledger that removes nothing."""

    def drop(self, units, *, lost=False):
        if lost:
            super().drop(units, lost=lost)


def test_the_nearest_curvature_is_taken(audits, kept):
    near = audits.run(Changed(order=THEN[1:]), Hoarding(kept))
    found = audits.run(Changed(order=THEN[2:]), Hoarding(kept), kept_curvature=0.5)
    assert found.curvature == near.curvature


def test_what_a_full_audit_has_computed_meanwhile_is_taken_instead(audits, before, kept):
    found = audits.run(Changed(order=NOW), Hoarding(kept), kept_curvature=MOVED)
    assert found.curvature == before[0].curvature
    full = audits.run(Changed(order=NOW), Hoarding(kept))
    check(audits.run(Changed(order=NOW), Hoarding(kept), kept_curvature=MOVED), full, full)


def test_where_examples_only_go_units_of_earlier_data_are_removed(audits, kept):
    responses = set(kept.glob("source_scoring/g0%2F[rc]*"))
    for gone in (1, 2):
        audits.run(Changed(order=THEN[gone:]), Ledger(kept), kept_curvature=0.5)
        assert len(list(kept.glob("source_scoring/g0%2F0*"))) == 3
    # A new example is scored by the responses that there are.
    assert set(kept.glob("source_scoring/g0%2F[rc]*")) == responses != set()


def test_killed_it_goes_on(audits, kept, tmp_path):
    for name in ("whole", "1", "5", "8"):
        shutil.copytree(kept.parent, tmp_path / name)
    whole = audits.run(
        Changed(order=NOW), Ledger(tmp_path / "whole" / "units"), kept_curvature=MOVED
    )
    for after in (1, 5, 8):
        ledger = tmp_path / str(after) / "units"
        with pytest.raises(KeyboardInterrupt):
            audits.run(Changed(order=NOW), Killed(ledger, after), kept_curvature=MOVED)
        again = Killed(ledger, EXAMPLES)
        check(audits.run(Changed(order=NOW), again, kept_curvature=MOVED), whole, whole)
        # Nothing that was done is done again.
        assert again.left - after == EXAMPLES - 10


@pytest.mark.parametrize("lost", ["*%2Feigenvalues*", "step_000010%2F0.*", "scales.*"])
def test_where_a_part_of_the_curvature_is_lost_all_is_computed(audits, kept, tmp_path, lost):
    folders = list(kept.glob(f"*/{lost}"))
    assert folders
    for folder in folders:
        shutil.rmtree(folder)
    found = audits.run(Changed(order=NOW), Ledger(kept), kept_curvature=MOVED)
    check(found, audits.run(Changed(order=NOW), Ledger(tmp_path / "full")))


def test_where_a_new_example_cannot_be_used_all_is_computed(audits, tmp_path):
    then = [number for number in range(EXAMPLES) if number != 5]
    audits.run(Unusable(order=then), Ledger(tmp_path / "kept" / "units"))
    found = audits.run(Unusable(), Ledger(tmp_path / "kept" / "units"), kept_curvature=0.5)
    check(found, audits.run(Unusable(), Ledger(tmp_path / "full")))


def test_how_far_it_has_moved_is_said(audits, before, kept):
    setup = audits.set_up(Changed(order=NOW), Ledger(kept), kept_curvature=MOVED)
    score(setup)
    then, now = before[0].rows["signals"], extract(setup).signals.collect()
    said = describe_curvature(setup, now.lazy(), pl.DataFrame())
    assert f"curvature of {len(THEN)} examples of " in said["text"]
    assert ", 2 gone, 1 come;" in said["text"]
    assert said["share"] == pytest.approx(MOVED)
    squares = {
        name: sum(
            row["gradient_norm"] ** 2
            for row in rows.iter_rows(named=True)
            if row["example_id"] in names
        )
        for name, rows, names in (
            ("gone", then, ("e4", "e9")),
            ("come", now, (f"e{NEW}",)),
            ("all", then, then["example_id"].to_list()),
        )
    }
    expected = (squares["gone"] + squares["come"]) / squares["all"]
    assert said["gradient_share"] == pytest.approx(expected)


def test_of_a_full_audit_nothing_is_said(audits, kept):
    setup = audits.set_up(Changed(order=THEN), Ledger(kept), kept_curvature=MOVED)
    score(setup)
    assert describe_curvature(setup, pl.LazyFrame(), pl.DataFrame()) == {}


def help_out(folder, root):
    torch.set_num_threads(1)
    Audits(folder).run(
        Changed(order=NOW), Ledger(root), rank=1, size=2, kept_curvature=MOVED, range_size=4
    )


def test_two_processes_keep_what_one_keeps(audits, tmp_path):
    kept = tmp_path / "kept" / "units"
    then = audits.run(Changed(order=THEN), Ledger(kept), range_size=4)
    other = multiprocessing.get_context("forkserver").Process(
        target=help_out, args=(audits.folder, kept)
    )
    other.start()
    found = audits.run(Changed(order=NOW), Ledger(kept), size=2, kept_curvature=MOVED, range_size=4)
    other.join(60)
    assert other.exitcode == 0
    check_kept(found, then)
