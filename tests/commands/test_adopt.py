"""`sourcetrace adopt`: both files or neither, and never over others."""

import pytest
import yaml
from click.testing import CliRunner

from sourcetrace.commands.adopt import adopt


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "conf/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf/base"


def run(*arguments, task="churn.task.ChurnTask"):
    return CliRunner().invoke(adopt, [*arguments, "--task", task])


def test_it_writes_a_catalog_and_parameters(project):
    assert run("churn_audit").exit_code == 0
    catalog = yaml.safe_load((project / "catalog_churn_audit.yml").read_text())
    assert "churn_audit.review_list" in catalog
    parameters = yaml.safe_load((project / "parameters_churn_audit.yml").read_text())
    assert parameters["churn_audit"]["task"]["class"] == "churn.task.ChurnTask"


def test_nothing_is_overwritten_and_nothing_half_written(project):
    (project / "parameters_churn_audit.yml").write_text("mine: 1\n")
    result = run("churn_audit")
    assert result.exit_code == 1
    assert "parameters_churn_audit.yml is there already" in result.output
    assert [path.name for path in project.iterdir()] == ["parameters_churn_audit.yml"]


@pytest.mark.parametrize("namespace", ["../x", "a.b", "", "a b", "1a"])
@pytest.mark.usefixtures("project")
def test_a_namespace_is_a_name(namespace):
    result = run(namespace)
    assert result.exit_code == 2
    assert "is no namespace" in result.output


@pytest.mark.parametrize("task", ["ChurnTask", "a b.C", "x: y", ""])
def test_a_task_is_an_import_path(project, task):
    result = run("churn_audit", task=task)
    assert result.exit_code == 2
    assert "expected package.module.Class" in result.output
    assert not list(project.iterdir())


def test_outside_a_project_it_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Run this command in the project's folder" in run("churn_audit").output
