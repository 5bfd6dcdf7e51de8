"""What `sourcetrace audit --pending` says of its plan and its results."""

from dataclasses import replace

import pytest

from sourcetrace.commands import audit_pending
from sourcetrace.commands.pending_report import print_plan, print_results
from sourcetrace.tracking.scheduling.planned_version import PlannedVersion

OLD = "older than the 3 newest"
PLAN = [
    PlannedVersion("churn", "1", "skip", OLD),
    PlannedVersion("churn", "2", "skip", OLD),
    PlannedVersion("churn", "3", "skip", "audited: pass", "data/3"),
    PlannedVersion("churn", "4", "audit", "never audited", "data/4", {"task": {"class": "a.B"}}),
    PlannedVersion("[bold]odd", "", "error", "there is no model '[bold]odd'"),
]


@pytest.fixture
def printed(capsys):
    def lines_of(show, *arguments):
        show(*arguments)
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return lines_of


def test_the_plan_has_a_row_a_version_and_one_for_all_that_are_too_old(printed):
    lines = printed(print_plan, PLAN)
    assert "1 version to audit" in lines
    assert f"churn 1 to 2 skip {OLD}" in lines
    assert "churn 3 skip audited: pass data/3" in lines
    assert "churn 4 audit never audited data/4" in lines
    assert "error: [bold]odd: there is no model '[bold]odd'" in lines


def test_the_results_say_where_the_reports_are_and_what_went_wrong(printed):
    results = [
        PLAN[2],
        replace(PLAN[3], outcome="warn", run_id="r", reports="data/08_reporting/versions/4"),
        replace(PLAN[3], outcome="fail", exit_code=1, run_id="r2"),
        replace(PLAN[4], outcome="error", exit_code=2, message="no [such] thing"),
    ]
    lines = printed(print_results, results)
    assert "churn 4 warn data/08_reporting/versions/4" in lines
    assert "churn 4 fail in MLflow's run r2" in lines
    assert "error: [bold]odd: no [such] thing" in lines
    assert not any(line.startswith("churn 3") for line in lines)
    assert "Nothing to audit." in printed(print_results, results[:1])


def test_the_json_holds_no_parameter():
    written = replace(PLAN[3], outcome="pass", run_id="r").to_json()
    assert written == {
        "model": "churn",
        "version": "4",
        "action": "audit",
        "reason": "never audited",
        "checkpoints": "data/4",
        "outcome": "pass",
        "exit_code": 0,
        "message": "",
        "run_id": "r",
        "reports": None,
    }


def test_an_error_does_not_keep_the_others_from_their_audits(monkeypatch):
    due = replace(PLAN[3], version="5")
    ends = {
        "4": replace(PLAN[3], outcome="error", exit_code=2),
        "5": replace(due, outcome="", exit_code=3),
    }
    monkeypatch.setattr(audit_pending, "_audit_one", lambda one, _: ends[one.version])
    results = list(audit_pending._audit_all([PLAN[4], PLAN[3], PLAN[2], due], None, None))
    assert [one.exit_code for one in results] == [2, 2, 0, 3]
    assert results[0].message == PLAN[4].reason
    order = audit_pending.WORST_FIRST
    assert [min(codes, key=order.index) for codes in ((0, 3), (3, 1, 0), (1, 2, 3))] == [3, 1, 2]
