"""Each fault at a moment or two; `python -m tests.services.faults` has them all."""

import subprocess

import pytest

from tests.services.faults import scenarios
from tests.services.faults.scenarios import Bench

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture(scope="module")
def bench(postgres, server, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"), postgres=postgres, server=server)


@pytest.fixture
def may_mount(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("Nobody but root may mount a small disk.")
    subprocess.run(["umount", folder], check=True)


# While something is written: tests/commands/test_sync.py.
def test_a_server_that_dies_costs_no_audit(bench):
    assert scenarios.server_dies(bench, "before fit_curvature").findings.all() == []


def test_a_database_that_restarts_goes_unnoticed(bench):
    assert scenarios.database_restarts(bench, "write 3").findings.all() == []


@pytest.mark.parametrize("moment", ["write 12", "end of run"])
def test_a_kill_costs_no_recorded_audit(bench, moment):
    assert scenarios.killed_at(bench, moment).findings.all() == []


@pytest.mark.usefixtures("may_mount")
def test_a_full_disk_is_an_error_and_no_pass(bench):
    assert scenarios.disk_fills(bench, "before enforce_gate").findings.all() == []


def test_a_clock_that_goes_back_leaves_the_order_of_the_history(bench):
    assert scenarios.clock_goes_back(bench, 400.0).findings.all() == []


@pytest.mark.parametrize("shared_history", [True, False])
def test_two_audits_leave_a_version_with_all_of_one(bench, shared_history):
    assert (
        scenarios.two_audits_race(bench, "write 12", shared_history=shared_history).findings.all()
        == []
    )
