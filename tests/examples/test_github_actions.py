"""The workflow's own steps, run in their order as the runner runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import REPOSITORY

WORKFLOW = REPOSITORY / "examples/github-actions/audit.yml"


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def test_it_is_what_github_takes():
    command = [
        *(sys.executable, "-m", "check_jsonschema"),
        *("--builtin-schema", "vendor.github-workflows", str(WORKFLOW)),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class Job:
    """Runs the job's `run` steps with bash, and notes which others would run.

    Args:
        workflow: The file's content.
        project: The folder that the checkout would make.
        tools: Folder whose programs come first, in place of the runner's Python and pip.
        given: What an input is, by its name.
    """

    def __init__(self, workflow, project, tools, **given):
        self.workflow, self.project, self.tools, self.given = workflow, project, tools, given
        self.outputs, self.used, self.log = {}, [], ""
        self.failed = False
        self.summary = tools / "summary.md"
        self.summary.write_text("")

    def run(self):
        for step in self.workflow["jobs"]["audit"]["steps"]:
            if not self.holds(step.get("if", "success()")):
                continue
            if "uses" in step:
                self.used.append(step)
            else:
                self.run_step(step)
        return self

    def run_step(self, step):
        output = self.tools / "output"
        output.write_text("")
        asked = {**self.workflow["env"], **step.get("env", {})}
        run = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.project,
            env={
                **os.environ,
                "PATH": f"{self.tools}:{os.environ['PATH']}",
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                **{name: self.filled(value) for name, value in asked.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.log += run.stdout
        self.failed |= run.returncode != 0
        self.outputs |= dict(line.split("=", 1) for line in output.read_text().splitlines())

    def filled(self, text):
        """Return a value with its expression replaced; an unknown one is an error."""
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: self.value(found[1]), text)

    def value(self, expression):
        if expression.startswith("secrets."):
            return ""
        if expression == "steps.audit.outputs.code":
            return self.outputs.get("code", "")
        name, default = re.fullmatch(r"inputs\.(\w+) \|\| '(\w+)'", expression).groups()
        return self.given.get(name, default)

    def holds(self, condition):
        code = self.outputs.get("code", "")
        return {
            "success()": not self.failed,
            "${{ !cancelled() && steps.audit.outputs.code }}": bool(code),
            "${{ !cancelled() && steps.audit.outputs.code != '' "
            "&& steps.audit.outputs.code != '2' }}": code not in {"", "2"},
        }[condition]


def test_a_scheduled_audit_is_the_whole_one_of_the_nightly_environment(workflow, tmp_path):
    job = Job(workflow, tmp_path, tmp_path)
    (audit,) = [one for one in workflow["jobs"]["audit"]["steps"] if one.get("id") == "audit"]
    asked = {name: job.filled(value) for name, value in audit["env"].items()}
    assert asked == {"AUDIT_ENV": "nightly", "PIPELINES": "audit"}


@pytest.fixture
def job(workflow, audited, tmp_path):
    """Return a function that runs the job in the audited project; pip only notes its call."""
    (tmp_path / "python").write_text(
        '#!/bin/sh\nif [ "$1 $2" = "-m pip" ]; then shift 2; echo "$@" >>"$(dirname "$0")/pip"\n'
        f'else exec "{sys.executable}" "$@"; fi\n'
    )
    (tmp_path / "python").chmod(0o755)
    made = Job(workflow, audited, tmp_path)

    def run(**given):
        made.given = given
        return made.run()

    return run


def uploaded(job):
    (step,) = (one for one in job.used if one["uses"].startswith("actions/upload-artifact@"))
    return step["with"]["path"].split()


@pytest.mark.slow
def test_an_audit_that_passes_is_summed_up_and_its_files_are_kept(job, audited, tmp_path):
    for name in ("gate.json", "gate_junit.xml"):
        (audited / "data/08_reporting" / name).unlink()
    done = job(pipelines="gate")
    assert not done.failed, done.log
    assert (tmp_path / "pip").read_text() == "install -c constraints.txt .[alerts]\n"
    assert done.summary.read_text().startswith("## Audit: warn\n")
    kept = uploaded(done)
    assert {Path(name).name for name in kept} >= {
        *("cleaning_report.html", "gate.json", "gate_junit.xml"),
    }
    assert all((audited / name).is_file() for name in kept)


@pytest.mark.slow
def test_an_audit_that_fails_its_gate_fails_the_job_with_everything_kept(job, audited, nightly):
    nightly("gate: {checks: [{metric: harmful_share, at_most: -1.0}]}")
    done = job(environment="nightly", pipelines="gate")
    assert done.failed
    assert done.summary.read_text().startswith("## Audit: fail\n")
    assert "| fail | harmful_share ≤ -1 (fail) | harmful_share is" in done.summary.read_text()
    assert all((audited / name).is_file() for name in uploaded(done))


@pytest.mark.slow
def test_an_error_is_no_verdict_and_keeps_no_file_of_an_earlier_audit(job, nightly):
    nightly("gate: {no_such_key: 1}")
    done = job(pipelines="gate")
    assert done.failed
    assert "Exit code 2: there is no verdict" in done.summary.read_text()
    assert not [one for one in done.used if one["uses"].startswith("actions/upload-artifact@")]
