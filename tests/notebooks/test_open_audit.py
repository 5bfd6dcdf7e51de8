"""The notebooks that open an audit: their cells run, define nothing, and are fit to be read."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

import sourcetrace
from sourcetrace.audit.decisions.spreadsheet import read_decisions_file
from sourcetrace.reporting.queries.view import QueryView
from sourcetrace.schemas import CleanedData, ExampleIssues, SuspectGroups
from sourcetrace.schemas.examples import PlantedLabelErrors
from tests import REPOSITORY
from tests.datasets.test_verification_stores import write_scores
from tests.reporting.content import page_content
from tests.reporting.queries.test_view import query_view
from tests.reporting.test_groups_section import group
from tests.reporting.whole_page import measured_cleaning

NOTEBOOKS = ("explore_an_audit", "one_querys_story", "decide_and_clean", "compare_methods")


def file_of(name):
    return REPOSITORY / f"notebooks/{name}.ipynb"


def cells_of(name):
    cells = json.loads(file_of(name).read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def outputs(tmp_path):
    """A folder of outputs of an audit of 40 examples and 3 queries."""
    content, view = page_content(), query_view(count=5)
    ids = content.review_list["example_id"].to_list()
    tables = {
        "suspect_groups": SuspectGroups.frame([group(1)]),
        "example_issues": ExampleIssues.frame([(ids[0], "label", 1.0, True, None)]),
        "cleaned_data": CleanedData.frame(
            (name, i, "1", i > 0, None) for i, name in enumerate(ids)
        ),
        "planted_label_errors": PlantedLabelErrors.frame((name, 1, 2) for name in ids[:4]),
        "review_list": content.review_list,
        "example_signals": content.example_signals,
        **{name: getattr(view, name) for name in QueryView.TABLES},
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    summary = {"method": view.method, "training_examples": view.training_examples}
    (tmp_path / "audit_summary.json").write_text(json.dumps(summary))
    (tmp_path / "measurement.json").write_text(view.measurement.model_dump_json())
    values = content.review_list.select(a="harm", b="harm", c="loss").to_numpy().astype("float32")
    write_scores(tmp_path / "attribution_scores", ids, values, [30, 10])
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "data/08_reporting").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_cells_run_and_define_nothing(name, outputs, monkeypatch, capsys):
    audit = sourcetrace.open_audit(outputs)
    monkeypatch.setattr("sourcetrace.opened.open_audit", lambda _: audit)
    commands = []

    def run(command, **_):
        commands.append(command[1:4])
        gained = measured_cleaning().to_json()
        (outputs / "data/08_reporting/cleaning_result.json").write_text(json.dumps(gained))
        return SimpleNamespace(stdout="said")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "copytree", lambda *_: None)
    monkeypatch.setattr(shutil, "copy", lambda *_: None)
    monkeypatch.chdir(outputs)
    names = {}
    for number, cell in enumerate(cells_of(name)):
        source = "".join(cell["source"])
        assert not re.search(r"^\s*(def|class) ", source, re.MULTILINE)
        exec(compile(source, f"cell {number}", "exec"), names)
    said = capsys.readouterr().out
    if name == "explore_an_audit":
        assert names["points"].height == 40
    elif name == "one_querys_story":
        assert "Its margin is 0" in said
        assert names["curve"]["share"][-1] == pytest.approx(1)
    elif name == "decide_and_clean":
        assert [command[2] for command in commands] == ["apply_decisions,verify_cleaning"]
        decided = read_decisions_file(names["file"].read_bytes(), called="")
        assert set(decided["decision"]) == {"relabel", "unsure"}
        assert names["manifest"].height == 40
        assert len(names["gains"]) == 3
    else:
        assert [command[0] for command in commands] == ["run"]
        assert names["found"].filter(inspected=4).height == 4


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_saved_is_small_and_of_no_machine(name):
    text = file_of(name).read_text("utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/(home|work|tmp|root|Users)/|file://", text)
    assert all(cell["outputs"] for cell in cells_of(name))
