"""What `sourcetrace audit --pending` says of its plan and its results."""

from dataclasses import replace

import pytest

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
