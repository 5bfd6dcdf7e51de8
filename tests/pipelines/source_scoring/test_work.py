"""Scores are the same bytes however the work on them is cut off, taken up and shared."""

import multiprocessing
import shutil
import time
from dataclasses import replace

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch.utils.data import TensorDataset

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.parameters import AttributionParameters, GradientParameters
from sourcetrace.pipelines.ekfac_fitting.work import Fitted
from sourcetrace.pipelines.set_up.grid import Grid
from sourcetrace.pipelines.source_scoring import ranges, work
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import Team
from tests.pipelines.test_training import Tiny, fitted, inputs_of, train

EXAMPLES = 22


class Longer(Tiny):
    """Twenty-two training examples: three ranges of eight, of batches of four."""

    def __init__(self):
        super().__init__()
        self.inputs = self.inputs.repeat(3, 1) * torch.linspace(0.5, 1.5, 24)[:, None]
        self.labels = self.labels.repeat(3)

    def train_examples(self):
        return TensorDataset(self.inputs[:EXAMPLES], self.labels[:EXAMPLES])

    def query_examples(self):
        return TensorDataset(self.inputs[EXAMPLES:], self.labels[EXAMPLES:])

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in range(EXAMPLES)]})


class Killed(Ledger):
    """A ledger of a process that is killed when it begins its nth unit."""

    def __init__(self, root, after):
        super().__init__(root)
        self.left = after

    def write(self, unit, do):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().write(unit, do)


class Audit:
    """A set-up and its curvature, by which ledgers in folders are filled."""

    def __init__(self, folder, method="source", *, again=False):
        self.folder = folder
        if not again:
            train(folder / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
        inputs = inputs_of(folder, folder / "run", method=method, task=Longer(), count=2)
        inputs["ingested"] = replace(inputs["ingested"], identity="this")
        inputs["gradients"] = GradientParameters(cache="memory", batch_size=4)
        self.setup, (self.curvature, *_) = fitted(inputs)

    def shared(self, ledger, *, range_size=8, groups=1, rank=0, size=1, **attribution):
        """Return the set-up of a process."""
        needs, layers = self.setup.needs, self.setup.engine.coverage.layers
        cut = [layers[at::groups] for at in range(groups)]
        given = self.setup.attribution.model_dump() | attribution
        return replace(
            self.setup,
            grid=Grid(4, range_size),
            team=Team(ledger, rank=rank, size=size),
            needs=replace(needs, scoring=replace(needs.scoring, groups=tuple(cut))),
            attribution=AttributionParameters.model_validate(given),
        )

    def scored(self, ledger, **options):
        setup = self.shared(ledger, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(work, "fit", lambda _: Fitted(self.curvature, [], []))
            return score(setup)


def content(scored):
    """Return the bytes of all files, and what is said of the queries."""
    files = [file for files in scored.parts for file in files]
    return [file.path.read_bytes() for file in files], scored.preparation.report()


def tables(scored):
    parts = zip(*scored.parts, strict=True)
    return [pl.read_parquet([file.path for file in files]) for files in parts]


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return Audit(tmp_path_factory.mktemp("audit"))


def test_behind_the_scores_no_gradient_is_in_memory(audit, tmp_path):
    cache = audit.setup.cache
    cache.put("a block", {"layer": torch.ones(2)})
    assert cache.get("a block") is not None
    audit.scored(Ledger(tmp_path))
    assert cache.get("a block") is None


@pytest.mark.parametrize("groups", [1, 3])
def test_killed_at_any_unit_and_taken_up_it_is_as_undisturbed(audit, tmp_path, groups, monkeypatch):
    expected = content(audit.scored(Ledger(tmp_path / "whole"), groups=groups))
    measured = []
    monkeypatch.setattr(
        QueryGradients, "of", lambda *of, make=QueryGradients.of: measured.append(of) or make(*of)
    )
    # Of a group: its layers' responses, their check, three ranges.
    layers = 3 // groups
    units = groups * (own := layers + 1 + 3)
    for after in range(units):
        root = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            audit.scored(Killed(root, after), groups=groups)
        measured.clear()
        resumed = audit.scored(ledger := Killed(root, units - after), groups=groups)
        assert content(resumed) == expected
        assert ledger.left == 0
        # Once a group whose responses are not all there.
        assert len(measured) == groups - after // own - (after % own >= layers)
    measured.clear()
    assert content(audit.scored(Killed(root, 0), groups=groups)) == expected
    assert not measured


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_taken_up(tmp_path, method):
    audit = Audit(tmp_path, method)
    expected = content(audit.scored(Ledger(tmp_path / "whole")))
    with pytest.raises(KeyboardInterrupt):
        audit.scored(Killed(tmp_path / "killed", 1))
    assert content(audit.scored(Ledger(tmp_path / "killed"))) == expected


def test_ranges_groups_and_files_change_no_score(audit, tmp_path, monkeypatch):
    found = tables(audit.scored(Ledger(tmp_path / "one"), range_size=EXAMPLES))
    monkeypatch.setattr(ranges, "_AT_ONCE", 17)  # two batches of four examples for two queries
    parts = audit.scored(Ledger(tmp_path / "parts"), range_size=EXAMPLES)
    assert len(parts.parts) == 3
    for one, other in zip(tables(parts), found, strict=True):
        assert_frame_equal(one, other)
    for name, options in (("ranges", {}), ("groups", {"groups": 3})):
        for one, other in zip(
            tables(audit.scored(Ledger(tmp_path / name), **options)), found, strict=True
        ):
            assert_frame_equal(one, other, rel_tol=1e-5, abs_tol=1e-8)


def help_out(folder, root):
    torch.set_num_threads(1)
    Audit(folder, again=True).scored(Ledger(root), groups=3, rank=1, size=2)


def test_two_processes_write_what_one_does(audit, tmp_path):
    expected = content(audit.scored(Ledger(tmp_path / "one"), groups=3))
    # Not forked from here: polars' threads would be missing.
    processes = multiprocessing.get_context("forkserver")
    other = processes.Process(target=help_out, args=(audit.folder, tmp_path / "two"))
    other.start()
    while other.is_alive() and not (tmp_path / "two").exists():
        time.sleep(0.01)
    assert content(audit.scored(Ledger(tmp_path / "two"), groups=3, size=2)) == expected
    other.join(60)
    assert other.exitcode == 0
    assert len(list((tmp_path / "two/log").iterdir())) == 2


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_part_is_done_again(audit, tmp_path, name, caplog):
    scored = audit.scored(Ledger(tmp_path), groups=3)
    expected = content(scored)
    (damaged,) = tmp_path.rglob(f"*8-*16.*/{name}-*.parquet")
    changed = bytearray(damaged.read_bytes())
    changed[len(changed) // 2] ^= 1
    damaged.write_bytes(changed)
    # Of its range alone, by every group, whose responses were dropped behind it.
    ledger = Killed(tmp_path, 3 * (1 + 1 + 1))
    assert content(audit.scored(ledger, groups=3)) == expected
    assert caplog.text.count("is damaged") == 1


def test_scores_of_the_layers_so_far_that_are_damaged_are_done_again(audit, tmp_path):
    expected = content(audit.scored(Ledger(tmp_path / "whole"), groups=3))
    with pytest.raises(KeyboardInterrupt):
        audit.scored(Killed(tmp_path / "killed", 12), groups=3)
    (damaged,) = (tmp_path / "killed").rglob("g1*8-*16.*/12")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    assert content(audit.scored(Ledger(tmp_path / "killed"), groups=3)) == expected


def test_what_is_kept_in_the_end_is_the_last_group_s(audit, tmp_path):
    audit.scored(Ledger(tmp_path), groups=1)
    audit.scored(Ledger(tmp_path), groups=3)
    kept = {file.parent.name.split("%2F")[0] for file in tmp_path.rglob("*.parquet")}
    assert kept == {"g2"}
    assert len(list((tmp_path / "source_scoring").iterdir())) == 3


def test_scores_that_are_lost_are_done_again_by_the_responses_that_are_kept(
    audit, tmp_path, monkeypatch
):
    expected = content(audit.scored(Ledger(tmp_path)))
    (lost,) = (tmp_path / "source_scoring").glob("g0%2F*8-*16.*")
    shutil.rmtree(lost)
    monkeypatch.setattr(QueryGradients, "of", None)
    assert content(audit.scored(Killed(tmp_path, 1))) == expected
