"""The status says what is there of an audit, and leaves everything as it was."""

import io
import shutil

import pytest
from kedro.io import MemoryDataset
from kedro.runner import SequentialRunner
from rich.console import Console

from sourcetrace.datasets.entries import open_catalog
from sourcetrace.hooks.terminal import Terminal
from sourcetrace.parameters import StatusParameters
from sourcetrace.pipelines.audit import STAGES, create_audit, create_status
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.phases import Phase, Phases
from sourcetrace.work.unit import Unit
from tests.pipelines.test_stored_results import (
    RECORD,
    catalog_of,
    flip,
    inside,
    path_of,
    run,
    write_inputs,
)

NUMERICAL = ("gradient_extraction", "ekfac_fitting", "source_scoring")
UNITS = "data/04_feature/gradients/units"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    write_inputs(folder)
    run(folder, create_audit())
    return folder


@pytest.fixture
def project(audited, tmp_path):
    return shutil.copytree(audited, tmp_path / "project")


def status(folder, *, namespace=None, check=False, **arguments):
    prefix = f"{namespace}." if namespace else ""
    before = files_of(folder)
    with inside(folder):
        catalog = catalog_of(**arguments)
        for name in ("stored_audit", "audit_status") if namespace else ():
            catalog[f"{prefix}{name}"] = catalog[name]
        catalog[f"params:{prefix}status"] = MemoryDataset(StatusParameters(check=check))
        open_catalog(catalog)
        SequentialRunner().run(create_status(namespace), catalog)
        found = catalog.load(f"{prefix}audit_status")
    assert files_of(folder) == before
    return found


def files_of(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def states(found):
    return {one.stage: one.state for one in found.stages}


def begin(folder, *, done, of):
    """Leave a stage's work as a kill leaves it: some units, and not all results."""
    with inside(folder):
        parts = catalog_of().load("audit_identity").parts_for("gradient_extraction")
        path_of("query_signals").with_name(path_of("query_signals").name + RECORD).unlink()
    units = [
        Unit("gradient_extraction", f"{number}", {**parts, "checkpoints": "1"}, cost=2.0)
        for number in range(of)
    ]
    ledger = Ledger(folder / UNITS)
    # Their own parts may be others: fewer checkpoints, say.
    Phases(ledger.root).keep(Phase(parts, units))
    for unit in units[:done]:
        ledger.write(unit, lambda _, place: (place / "sums").write_bytes(b"sums") and {})
    return units[:done]


def test_nothing_is_done(tmp_path):
    write_inputs(tmp_path)
    found = status(tmp_path)
    assert states(found) == dict.fromkeys(STAGES, "not begun")
    assert {one.run for one in found.stages if one.stage in NUMERICAL} == {"do all of it"}
    assert (found.left, found.checked) == (0, False)


def test_all_is_done(project):
    for check in (False, True):
        found = status(project, check=check)
        assert states(found) == dict.fromkeys(STAGES, "done")
        done = {one.run for one in found.stages if one.stage in NUMERICAL}
        assert (done, found.left) == ({"take what is there"}, 0)


@pytest.mark.parametrize("namespace", [None, "churn_audit"])
def test_what_a_kill_left_is_counted_and_timed(project, namespace):
    begin(project, done=3, of=5)
    found = status(project, namespace=namespace)
    stage = found.stages[1]
    assert stage.state == "partly done (3 of 5 units)"
    assert stage.run == "do 2 units and what follows them"
    assert 0 < stage.seconds < 1
    others = {name: state for name, state in states(found).items() if name != stage.stage}
    assert set(others.values()) == {"done"}


@pytest.mark.parametrize("joined", [False, True])
def test_what_a_later_phase_has_used_up_is_not_missing(project, joined):
    sums = begin(project, done=3, of=3)
    ledger, phases = Ledger(project / UNITS), Phases(project / UNITS)
    ledger.refresh()
    end = [Unit(one.stage, f"end/{one.name}", one.made_of) for one in sums]
    audit = phases.of("gradient_extraction")[0].audit
    phases.keep(Phase(audit, [*sums, *end]))
    ledger.write(end[0], lambda *_: {})
    ledger.drop(sums)
    if joined:
        ledger.tidy()
    stage = status(project).stages[1]
    assert stage.state == "partly done (4 of 6 units)"
    assert stage.run == "do 2 units and what follows them"
    assert stage.seconds is not None


def test_a_changed_parameter_is_named_in_the_stages_that_it_decides(project):
    begin(project, done=5, of=5)
    found = status(project, seed=7)
    said = "out of date: another method, seed, precision, sampled_labels or curvature_examples"
    assert states(found) == {
        "checkpoint_ingest": "done",
        **dict.fromkeys((*NUMERICAL, "cleaning_report"), said),
    }
    # What the last run took of the same work says how long it takes.
    assert found.stages[1].seconds > 0
    assert found.left >= 5


def test_damaged_files_are_named_once_their_bytes_are_read(project):
    (unit, *_) = begin(project, done=2, of=2)
    with inside(project):
        flip(path_of("attribution_scores"), None)
    ledger = Ledger(project / UNITS)
    ledger.refresh()
    flip(ledger.folder(unit), None)
    assert "damaged" not in " ".join(states(status(project)).values())
    found = states(status(project, check=True))
    assert found["source_scoring"] == "damaged: data/07_model_output/attribution_scores"
    assert found["gradient_extraction"] == "damaged: unit 0"
    assert found["ekfac_fitting"] == "done"


def test_the_terminal_shows_it(project):
    begin(project, done=1, of=2)
    page = io.StringIO()
    Terminal(Console(file=page, width=120)).print_status(status(project))
    said = " ".join(page.getvalue().split())
    assert "partly done (1 of 2 units)" in said
    # Those of the audit that there was.
    assert "Of other audits 4 units are in data/04_feature" in said
