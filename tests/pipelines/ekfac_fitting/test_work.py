"""The curvature is the same bytes however the work on it is cut off, and the same by any ranges."""

import json
import multiprocessing
import time
from dataclasses import replace

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from sourcetrace.pipelines.ekfac_fitting import work
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.work.ledger import Ledger
from tests.pipelines.gradient_extraction.test_work import (
    Audits,
    Killed,
    check_killed,
    cut,
    files_of,
    set_up,
)
from tests.pipelines.source_scoring.test_work import EXAMPLES, tables

SEGMENTS = 2
RANGES = 3


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return set_up(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def adam(tmp_path_factory):
    return set_up(tmp_path_factory.mktemp("adam"), optimizer=torch.optim.AdamW)


@pytest.mark.parametrize(("groups", "range_size"), [(1, 8), (2, EXAMPLES)])
def test_killed_in_any_unit_and_taken_up_it_is_as_undisturbed(
    adam, tmp_path, monkeypatch, groups, range_size
):
    """Extracted each time into its own folder, but never killed there."""
    ranges = -(-EXAMPLES // range_size)
    units = SEGMENTS * groups * (1 + ranges + (ranges > 1)) + 1
    found = extract(cut(adam, Ledger(tmp_path / "sums"), groups=groups, range_size=range_size))
    monkeypatch.setattr(work, "extracted", lambda _: found)
    check_killed(adam, fit, tmp_path, units, groups=groups, range_size=range_size)


def same(one, other, tolerance):
    """Fail unless the bases are those of the same matrices, and eigenvalues the same."""
    for blocks, others in zip(one.curvature, other.curvature, strict=True):
        assert {*blocks} == {*others}
        for name, block in blocks.items():
            for part, tensor in block.tensors().items():
                torch.testing.assert_close(
                    others[name].tensors()[part], tensor, rtol=tolerance, atol=tolerance
                )


def test_decomposed_layer_by_layer_it_is_the_same_bits(adam, tmp_path, monkeypatch):
    one = fit(cut(adam, Ledger(tmp_path / "one")))
    monkeypatch.setattr(work, "_CUBES", 0)
    other = fit(cut(adam, Ledger(tmp_path / "other")))
    same(one, other, 0.0)
    assert len(list((tmp_path / "other/ekfac_fitting").glob("*bases*"))) == SEGMENTS * 3


@pytest.mark.parametrize("optimizer", ["setup", "adam"])
def test_ranges_change_no_score(request, tmp_path, optimizer):
    audit = request.getfixturevalue(optimizer)
    found = []
    for size in (EXAMPLES, 8, 4):
        own = cut(audit, Ledger(tmp_path / str(size)), range_size=size)
        found.append(tables(score(own)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_frame_equal(
                one.select(pl.selectors.float()),
                other.select(pl.selectors.float()),
                rel_tol=1e-5,
                abs_tol=1e-7,
            )


def test_the_curvature_is_scaled_when_it_is_read(setup, tmp_path):
    fitted = fit(cut(setup, Ledger(tmp_path)))
    assert len(fitted.scales) == SEGMENTS
    for scaled, plain, factors in zip(
        fitted.curvature, fitted.unscaled, fitted.scales, strict=True
    ):
        for name, factor in factors.items():
            assert torch.equal(scaled[name].eigenvalues, factor * plain[name].eigenvalues)
            assert torch.equal(scaled[name].basis.inputs, plain[name].basis.inputs)


@pytest.mark.parametrize("file", ["bases", "squares", "scales"])
def test_a_damaged_unit_is_done_again_and_no_other(setup, tmp_path, caplog, file):
    fit(cut(setup, Ledger(tmp_path), range_size=EXAMPLES))
    expected = files_of(tmp_path)
    damaged = next((tmp_path / "ekfac_fitting").glob(f"*{file}*/*"))
    damaged.write_bytes(damaged.read_bytes()[::-1])
    fit(cut(setup, Killed(tmp_path, 1), range_size=EXAMPLES))
    assert files_of(tmp_path) == expected
    assert caplog.text.count("is damaged") == 1


def test_fitting_goes_by_the_sums_of_the_points_and_makes_those_that_are_gone(setup, tmp_path):
    whole = cut(setup, Ledger(tmp_path))
    fit(whole)
    expected = files_of(tmp_path)
    whole.team.ledger.drop(extract(whole).sums["step_000020"], lost=True)
    fit(cut(setup, Ledger(tmp_path)))
    assert files_of(tmp_path) == expected


def units_of(setup):
    """Return the names and identities of what lies there of fitting."""
    return {one.name for one in (setup.team.ledger.root / "ekfac_fitting").iterdir()}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"method": "scaled_source"}, {"bases", "squares"}),
        ({"tolerance": 0.0}, {"bases", "squares"}),
        ({"seed": 1}, set()),
        ({"precision": {"curvature": "tf32"}}, set()),
    ],
)
def test_what_does_not_decide_a_unit_does_not_make_it_stale(tmp_path, change, kept):
    audits = Audits(tmp_path)
    fit(audits.set_up())
    before = units_of(audits.set_up())
    fit(after := audits.set_up(**change))
    both = before & units_of(after)
    assert {name for name in ("bases", "squares") if any(name in one for one in both)} == kept


def test_adam_s_moments_decide_what_is_seen_through_them_alone(tmp_path):
    audits = Audits(tmp_path, torch.optim.AdamW)
    fit(audits.set_up())
    manifest = audits.inputs["ingested"].manifest
    audits.inputs["ingested"] = replace(
        audits.inputs["ingested"], manifest=manifest.with_columns(optimizer=pl.lit("SGD"))
    )
    before = units_of(audits.set_up())
    fit(plain := audits.set_up())
    assert not before & units_of(plain)


def test_what_is_said_of_adam_beside_a_checkpoint_decides_it_too(tmp_path):
    audits = Audits(tmp_path, torch.optim.AdamW)
    fit(audits.set_up())
    before = units_of(audits.set_up())
    (file,) = (tmp_path / "run").rglob("step_000010.*")
    said = {"optimizer": "AdamW", "learning_rate": 0.1, "eps": 0.5}
    file.with_suffix(".json").write_text(json.dumps(said))
    fit(audits.set_up())
    assert not before & units_of(audits.set_up())


def help_out(folder, root, threads):
    torch.set_num_threads(threads)
    fit(cut(set_up(folder), Ledger(root), rank=1, size=2))


def test_two_processes_write_what_one_does(tmp_path):
    audit = set_up(tmp_path)
    fit(cut(audit, Ledger(tmp_path / "one")))
    # Not forked from here: polars' threads would be missing.
    processes = multiprocessing.get_context("forkserver")
    other = processes.Process(
        target=help_out, args=(tmp_path, tmp_path / "two", torch.get_num_threads())
    )
    other.start()
    while other.is_alive() and not (tmp_path / "two").exists():
        time.sleep(0.01)
    fit(cut(audit, Ledger(tmp_path / "two"), size=2))
    other.join(60)
    assert other.exitcode == 0
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert len(list((tmp_path / "two/log").iterdir())) == 2
