"""Of changed data, what is known stays to the byte, and the rest is what a full audit makes."""

import multiprocessing
import os
import shutil
from dataclasses import replace
from unittest.mock import patch

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets import CheckpointsDataset, GradientCacheDataset
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    LaunchParameters,
    SegmentParameters,
    TaskParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.set_up.grid import Grid
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import check_inputs
from sourcetrace.pipelines.source_scoring.queries import describe_queries
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.ranks import RANK, SIZE
from sourcetrace.work.team import Team
from tests.pipelines.gradient_extraction.test_work import Killed
from tests.pipelines.source_scoring.test_work import EXAMPLES, Longer
from tests.pipelines.test_training import train

POINTS = 3
RELABELLED = (3, 11, 12)


class Changed(Longer):
    """The same data with other labels, inputs or columns of some examples, or some of them."""

    def __init__(self, relabelled=(), edited=(), column=None, order=range(EXAMPLES)):
        super().__init__()
        self.order = list(order)
        self.labels = self.labels.clone()
        for number in relabelled:
            self.labels[number] = (self.labels[number] + 1) % 3
        for number in edited:
            self.inputs[number] *= -1
        self.column = column

    def train_examples(self):
        return TensorDataset(self.inputs[self.order], self.labels[self.order])

    def train_table(self):
        table = super().train_table()[self.order]
        return table if self.column is None else table.with_columns(note=pl.lit(self.column))


class Unusable(Changed):
    """An example has no loss."""

    def train_loss(self, outputs, batch):
        gone = (batch[0] == self.inputs[5].to(batch[0])).all(1)
        return super().train_loss(outputs, batch).masked_fill(gone, float("nan"))


class Audits:
    """Audits of the same checkpoints in ledgers, as the data change."""

    def __init__(self, folder):
        self.folder = folder
        if not (folder / "run").exists():
            train(folder / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.01))

    def set_up(
        self,
        task,
        ledger,
        *,
        range_size=8,
        groups=1,
        rank=0,
        size=1,
        elsewhere=None,
        **attribution,
    ):
        """Return the set-up of an audit; with `elsewhere`, of another process with that task."""
        given = {"method": "scaled_source", "device": "cpu", "tolerance": 0.0, **attribution}
        parameters = AttributionParameters.model_validate(given)
        checkpoints = CheckpointsDataset(path=str(self.folder / "run")).load()
        identity, manifest, _, *tables = ingest_checkpoints(
            checkpoints, task, SegmentParameters(count=2), parameters
        )
        given = {"task": {"class": "tests.Changed"}, "attribution": given}
        made_of = MadeOf.of(given, **identity, code="")
        inputs = check_inputs(
            made_of,
            manifest,
            *tables,
            checkpoints,
            elsewhere or task,
            every_byte=elsewhere is None,
        )
        # Where the set-up's own ledger is to be the same, its folder is called so.
        folder = ledger.root.parent if ledger.root.name == "units" else ledger.root
        cache = GradientCacheDataset(path=str(folder)).load()
        allowed = TaskParameters.model_validate({"class": "tests.Changed", "set_aside": 0.1})
        # One that takes itself to be alone tidies up what others are at.
        with patch.dict(os.environ, {RANK: str(rank), SIZE: str(size)}):
            setup = set_up_audit(
                inputs,
                cache,
                GradientParameters(batch_size=4),
                parameters,
                LaunchParameters(threads=torch.get_num_threads()),
                allowed,
            )
        grid = Grid(4, range_size, policy="memory")
        layers = setup.engine.coverage.layers
        cut = tuple(layers[at::groups] for at in range(groups))
        needs = replace(setup.needs, scoring=replace(setup.needs.scoring, groups=cut))
        return replace(setup, grid=grid, needs=needs, team=Team(ledger, rank=rank, size=size))

    def run(self, task, ledger, **options):
        """Return what extraction and fitting give, and the tables."""
        setup = self.set_up(task, ledger, **options)
        fitted, found, scored = fit(setup), extract(setup), score(setup)
        rows = {name: getattr(found, name).collect() for name in ("signals", "sketches")}
        for name, files in zip(TABLES, zip(*scored.parts, strict=True), strict=False):
            rows[name] = pl.read_parquet([one.path for one in files])
        if setup.team.rank:
            return None
        strongest, *_ = describe_queries(setup, rows["query_contributions"])
        return Result(bytes_of(fitted), rows, strongest)


class Result:
    def __init__(self, curvature, rows, strongest):
        self.curvature, self.rows, self.strongest = curvature, rows, strongest


def bytes_of(fitted):
    return [
        {name: {k: v.numpy().tobytes() for k, v in blocks[name].tensors().items()}}
        for blocks in fitted.curvature
        for name in blocks
    ]


def check(found, full, before=None, changed=()):
    """Fail unless a result is a full audit's, and rows that did not change are those before."""
    assert found.curvature == full.curvature
    told = ("query_id", "side", "rank", "example_id")
    assert found.strongest.select(told).equals(full.strongest.select(told))
    kept = ~pl.col("example_id").is_in([f"e{number}" for number in changed])
    for name in found.rows:
        rows, expected = ordered(found.rows[name]), ordered(full.rows[name])
        assert_frame_equal(rows, expected, rel_tol=1e-6, abs_tol=1e-7)
        if before:
            earlier = ordered(before.rows[name])
            assert_frame_equal(rows.filter(kept), earlier.filter(kept), check_exact=True)


def ordered(rows):
    """Return a number a row, in an order that does not depend on how examples are cut."""
    columns = [one for one in ("side", "checkpoint_id", "segment") if one in rows.columns]
    rows = rows.sort(*columns, maintain_order=True) if columns else rows
    lists = [name for name, kind in rows.schema.items() if kind.is_nested()]
    return rows.explode(lists) if lists else rows


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    return Audits(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(("range_size", "groups"), [(8, 1), (EXAMPLES, 3)])
def test_relabelled_examples_are_visited_alone(audits, tmp_path, range_size, groups):
    kept, options = tmp_path / "kept", {"range_size": range_size, "groups": groups}
    before = audits.run(Changed(), Ledger(kept), **options)
    # A visit and a table a point; scores, and responses where they are not kept; ranges with them.
    units = 2 * POINTS + groups + (2 * groups if groups > 1 else 0) + (2 if range_size == 8 else 1)
    ledger = Killed(kept, units)
    found = audits.run(Changed(RELABELLED), ledger, **options)
    assert ledger.left == 0
    full = audits.run(Changed(RELABELLED), Ledger(tmp_path / "full"), **options)
    check(found, full, before, RELABELLED)
    # Back again, where the signals still lie beside the sums, and forth.
    back = audits.run(Changed(), Killed(kept, units - 2 * POINTS), **options)
    check(back, before, before, RELABELLED)
    forth = audits.run(Changed(RELABELLED), Ledger(kept), **options)
    check(forth, full, found, RELABELLED)


def test_where_scores_are_not_kept_ranges_with_relabelled_examples_are_scored_as_a_whole(
    audits, tmp_path
):
    options = {"precision": {"stored_scores": "strongest"}}
    audits.run(Changed(), Ledger(tmp_path / "kept"), **options)
    # A visit and a table a point, and one of three ranges.
    ledger = Killed(tmp_path / "kept", 2 * POINTS + 1)
    found = audits.run(Changed(RELABELLED[:1]), ledger, **options)
    assert ledger.left == 0
    full = audits.run(Changed(RELABELLED[:1]), Ledger(tmp_path / "full"), **options)
    check(found, full)


def test_what_an_example_s_input_was_decides_all(audits, tmp_path):
    before = audits.run(Changed(), Ledger(tmp_path / "kept"))
    found = audits.run(Changed(edited=[4]), Ledger(tmp_path / "kept"))
    assert found.curvature != before.curvature
    check(found, audits.run(Changed(edited=[4]), Ledger(tmp_path / "full")))


@pytest.mark.parametrize("method", ["trak", "astra_source"])
def test_methods_that_take_labels_otherwise_do_so(audits, tmp_path, method):
    kept, options = tmp_path / "kept", {"method": method}
    audits.run(Changed(), Ledger(kept), **options)
    found = audits.run(Changed(RELABELLED), Ledger(kept), **options)
    check(found, audits.run(Changed(RELABELLED), Ledger(tmp_path / "full"), **options))


@pytest.mark.parametrize("order", [range(EXAMPLES - 1, -1, -1), range(1, EXAMPLES)])
def test_examples_in_another_order_or_fewer_are_computed_anew(audits, tmp_path, order):
    audits.run(Changed(), Ledger(tmp_path / "kept"))
    found = audits.run(Changed(order=order), Ledger(tmp_path / "kept"))
    check(found, audits.run(Changed(order=order), Ledger(tmp_path / "full")))


def test_what_is_set_aside_stays_so(audits, tmp_path):
    before = audits.run(Unusable(), Ledger(tmp_path / "kept"))
    found = audits.run(Unusable(RELABELLED), Ledger(tmp_path / "kept"))
    full = audits.run(Unusable(RELABELLED), Ledger(tmp_path / "full"))
    check(found, full, before, RELABELLED)
    assert found.rows["query_influence"].height == EXAMPLES - 1


def test_a_column_more_is_nothing_to_compute(audits, tmp_path):
    before = audits.run(Changed(), Ledger(tmp_path))
    check(audits.run(Changed(column="new"), Killed(tmp_path, 0)), before, before)


def test_runs_that_have_a_checkpoint_in_common_keep_rows_of_their_own(audits, tmp_path):
    for run in ("a", "b"):
        shutil.copytree(audits.folder / "run", tmp_path / "run" / run)
    runs, kept = Audits(tmp_path), tmp_path / "kept"
    for relabelled in ((), RELABELLED[:1], RELABELLED):
        found = runs.run(Changed(relabelled), Ledger(kept), method="source")
    rows = found.rows["signals"].group_by("checkpoint_id").agg(pl.col("example_id").n_unique())
    assert rows["example_id"].to_list() == [EXAMPLES] * 2 * POINTS


def test_predictions_have_the_names_that_classes_have_now(audits, tmp_path):
    for names in (["car", "cat", "truck"], ["car", "cat", "lorry"]):
        task = Changed()
        task.label_names = names
        predicted = audits.run(task, Ledger(tmp_path)).rows["signals"]["predicted_label"]
        assert set(predicted) <= set(names)
        assert names[-1] in set(predicted)


def test_killed_while_labels_are_taken_it_goes_on(audits, tmp_path):
    audits.run(Changed(), Ledger(tmp_path / "whole"))
    full = audits.run(Changed(RELABELLED), Ledger(tmp_path / "full"))
    units = 2 * POINTS + 3
    for after in (0, 4, 7):
        kept = tmp_path / str(after)
        shutil.copytree(tmp_path / "whole", kept)
        with pytest.raises(KeyboardInterrupt):
            audits.run(Changed(RELABELLED), Killed(kept, after))
        ledger = Killed(kept, units)
        check(audits.run(Changed(RELABELLED), ledger), full)
        assert ledger.left == after


def help_out(folder, root):
    torch.set_num_threads(1)
    Audits(folder).run(Changed(RELABELLED), Ledger(root), rank=1, size=2)


def test_two_processes_take_labels_as_one_does(audits, tmp_path):
    kept = tmp_path / "kept"
    audits.run(Changed(), Ledger(kept))
    # Not forked from here: polars' threads would be missing.
    other = multiprocessing.get_context("forkserver").Process(
        target=help_out, args=(audits.folder, kept)
    )
    other.start()
    found = audits.run(Changed(RELABELLED), Ledger(kept), size=2)
    other.join(60)
    assert other.exitcode == 0
    check(found, audits.run(Changed(RELABELLED), Ledger(tmp_path / "full")))
