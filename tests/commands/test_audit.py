"""`sourcetrace audit`: exit codes, and what goes to which stream."""

import json
import logging
import os
import subprocess
import sys

import click
import pytest

from sourcetrace.audit.gate.report import GateFailed
from sourcetrace.commands import audit as command
from sourcetrace.commands import audit_run, project
from sourcetrace.errors import InputError
from sourcetrace.pipeline_registry import register_pipelines
from tests.audit.gate.examples import verdict
from tests.forked import run_forked

CHECK = {"metric": "harmful_share", "at_most": 0.1}
REPORTS = {
    "pass": verdict(CHECK, harmful_share=0.0),
    "warn": verdict({**CHECK, "severity": "warn"}, harmful_share=1.0),
    "inconclusive": verdict({**CHECK, "severity": "inconclusive"}, harmful_share=1.0),
    "fail": verdict(CHECK, harmful_share=1.0),
}


class Verdict:
    """Stands in for what a run returns."""

    def __init__(self, report):
        self._report = report

    def load(self):
        return self._report.model_dump(mode="json")


@pytest.fixture
def audit(monkeypatch, tmp_path):
    """Return a function that runs the command, each pipeline's run replaced by an action."""
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "configure_project", lambda _: None)
    monkeypatch.setattr(audit_run, "pipelines", register_pipelines())
    # The command quiets Kedro in its own process, which here is the tests'.
    level = logging.getLogger("kedro").level
    given = []

    def run(arguments, *actions):
        left = iter(actions)

        def kedro_run(kedro_arguments, *, standalone_mode):
            assert not standalone_mode
            given.append(kedro_arguments)
            sys.stdout.write("a progress bar\n")
            subprocess.run(["echo", "a child"], check=True)
            action = next(left)
            if isinstance(action, BaseException):
                raise action
            return {"verdict": Verdict(action)} if action else {}

        monkeypatch.setattr(project, "find_run_command", lambda _: kedro_run)
        with pytest.raises(SystemExit) as ended:
            command.audit(arguments, prog_name="sourcetrace audit")
        return ended.value.code

    run.given = given
    yield run
    logging.getLogger("kedro").setLevel(level)


@pytest.mark.parametrize(
    ("outcome", "code"), [("pass", 0), ("warn", 0), ("fail", 1), ("inconclusive", 3)]
)
@pytest.mark.parametrize("output", ["text", "json"])
def test_the_exit_code_is_the_verdict(audit, capfd, outcome, code, output):
    report = REPORTS[outcome]
    action = GateFailed(report) if outcome == "fail" else report
    assert audit(["--output", output], action) == code
    out, err = capfd.readouterr()
    if output == "json":
        assert json.loads(out) == report.model_dump(mode="json")
        assert "a progress bar" in err
        assert "a child" in err
    else:
        assert "a progress bar" in out
    assert ("The gate failed" in err) == (outcome == "fail")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("do this instead"), 2, "Error: do this instead"),
        (RuntimeError("out of luck"), 2, "Error: RuntimeError: out of luck (--verbose"),
        (click.ClickException("no such thing"), 2, "Error: no such thing"),
        (SystemExit(0), 2, "sys.exit(0)"),
        (SystemExit(1), 2, "sys.exit(1)"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (click.Abort(), 130, "Interrupted"),
        (None, 2, "without a verdict"),
    ],
)
def test_whatever_goes_wrong_is_no_verdict_and_one_message(audit, capfd, error, code, message):
    assert audit(["--output", "json"], error) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_verbose_shows_the_traceback(audit, capfd):
    assert audit(["--verbose"], RuntimeError("out of luck")) == 2
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "Error: RuntimeError: out of luck" in err


def test_options_are_handed_on_and_pipelines_run_one_after_the_other(audit):
    options = ["--params", "a=1", "--params", "b=2,c=3", "--env", "mine"]
    assert audit([*options, "--pipelines", "audit, verification"], *[REPORTS["pass"]] * 2) == 0
    shared = ["--params", "a=1,b=2,c=3", "--env", "mine"]
    assert audit.given == [
        [*shared, "--pipelines", "audit"],
        [*shared, "--pipelines", "verification"],
    ]


def test_parameters_of_a_file_are_nested_and_those_typed_come_before_them(tmp_path):
    from kedro.framework.cli.project import run

    file = tmp_path / "parameters.yml"
    file.write_text("{task: {arguments: {text: 'a, b=c'}}, attribution: {seed: 1, method: tracin}}")
    typed = ["--params", "attribution.seed=2,gate.baseline=x.json"]
    assert audit_run._given(run, typed, file) == {
        "task": {"arguments": {"text": "a, b=c"}},
        "attribution": {"seed": 2, "method": "tracin"},
        "gate": {"baseline": "x.json"},
    }
    assert audit_run._given(run, [], None) == {}
    for wrong in ("[1]", "{"):
        file.write_text(wrong)
        with pytest.raises(InputError, match=r"parameters\.yml"):
            audit_run._given(run, [], file)


@pytest.mark.parametrize(("last", "code"), [("pass", 0), ("inconclusive", 3)])
def test_the_last_verdict_counts(audit, last, code):
    first = GateFailed(REPORTS["fail"])
    assert audit(["--pipelines", "audit,verification"], first, REPORTS[last]) == code


def test_an_error_ends_it_even_after_a_verdict(audit):
    actions = REPORTS["pass"], RuntimeError("gone"), REPORTS["pass"]
    assert audit(["--pipelines", "audit,verification,gate"], *actions) == 2
    assert len(audit.given) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipelines", "audits"], "There is no pipeline audits"),
        (["--pipelines", "cleaning_report"], "gives no verdict"),
        (["--pipelines", ""], "gives no verdict"),
        (["--outputs", "json"], "No such option"),
        (["--dry-run"], "are options of --pending"),
        (["--params-file", "none.yml"], "does not exist"),
    ],
)
def test_what_cannot_give_a_verdict_is_refused_before_it_runs(audit, capfd, arguments, message):
    assert audit(arguments) == 2
    assert message in capfd.readouterr().err
    assert audit.given == []


def test_outside_a_project_it_says_where_to_run(audit, monkeypatch, tmp_path, capfd):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert audit([]) == 2
    assert "Run this command in the project's folder" in " ".join(capfd.readouterr().err.split())


def test_the_help_has_every_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        command.audit(["--help"], prog_name="sourcetrace audit")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n    {code}  " in said for code in (0, 1, 2, 3))


def sourcetrace(project, *arguments):
    environment = {**os.environ, "COLUMNS": "120", "DO_NOT_TRACK": "true"}
    run = run_forked("sourcetrace", ["audit", *arguments], cwd=project, environment=environment)
    assert "Traceback" not in run.stderr
    return run


@pytest.mark.slow
def test_a_demo_is_audited_judged_and_written_before_it_fails(short_demo, tmp_path):
    project = short_demo(tmp_path / "a project")
    reporting = project / "data/08_reporting"

    first = sourcetrace(project, "--pipelines", "cleaning_report,gate", "--output", "json")

    assert first.returncode == 0, first.stderr[-3000:]
    report = json.loads(first.stdout)
    assert report == json.loads((reporting / "gate.json").read_text())
    assert "Audited 1,437 training examples" in first.stderr
    page = (reporting / "cleaning_report.html").read_text()
    assert f"Gate: {report['outcome']}" in page
    assert "Against the planted errors" in page

    written = ["gate.json", "gate_junit.xml", "audit.json", "review_list.csv"]
    written.append("cleaning_report.html")
    for name in written:
        (reporting / name).unlink()
    (project / "conf/strict").mkdir()
    (project / "conf/strict/parameters.yml").write_text(
        "gate: {checks: [{metric: harmful_share, at_most: -1.0}]}"
    )
    failed = sourcetrace(project, "--env", "strict")
    assert failed.returncode == 1, failed.stderr[-3000:]
    assert all((reporting / name).exists() for name in written)
    assert "Gate: fail" in (reporting / "cleaning_report.html").read_text()
    assert json.loads((reporting / "audit.json").read_text())["gate"] == "fail"
    assert "Page:        data/08_reporting/cleaning_report.html" in failed.stdout
    assert "harmful_share is" in failed.stderr
    # Kedro would say so of a failed node, and how to resume.
    assert "have not run" not in failed.stdout + failed.stderr

    doubtful = sourcetrace(
        project, "--pipelines", "gate,gate", "--params", "gate.require_verification=true"
    )
    assert doubtful.returncode == 3
    assert doubtful.stdout.count("Gate: inconclusive") == 2
    # Each pipeline has its own run in MLflow.
    assert "already active" not in doubtful.stdout + doubtful.stderr

    before = (reporting / "gate.json").read_bytes()
    (project / "approved.json").write_text("{}")
    wrong = sourcetrace(project, "--params", "gate.baseline=approved.json")
    assert wrong.returncode == 2
    assert "approved.json is no baseline" in " ".join(wrong.stderr.split())
    assert (reporting / "gate.json").read_bytes() == before
