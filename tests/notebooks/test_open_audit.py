"""The notebooks that open an audit: their cells run, define nothing, and are fit to be read."""

import json
import re

import pytest

import sourcetrace
from sourcetrace.reporting.queries.view import QueryView
from tests import REPOSITORY
from tests.datasets.test_verification_stores import write_scores
from tests.reporting.content import page_content
from tests.reporting.queries.test_view import query_view

NOTEBOOKS = ("explore_an_audit", "one_querys_story")


def file_of(name):
    return REPOSITORY / f"notebooks/{name}.ipynb"


def cells_of(name):
    cells = json.loads(file_of(name).read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def outputs(tmp_path):
    """A folder of outputs of an audit of 40 examples and 3 queries."""
    content, view = page_content(), query_view(count=5)
    tables = {
        "review_list": content.review_list,
        "example_signals": content.example_signals,
        **{name: getattr(view, name) for name in QueryView.TABLES},
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    summary = {"method": view.method, "training_examples": view.training_examples}
    (tmp_path / "audit_summary.json").write_text(json.dumps(summary))
    (tmp_path / "measurement.json").write_text(view.measurement.model_dump_json())
    ids = content.review_list["example_id"].to_list()
    values = content.review_list.select(a="harm", b="harm", c="loss").to_numpy().astype("float32")
    write_scores(tmp_path / "attribution_scores", ids, values, [30, 10])
    return tmp_path


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_cells_run_and_define_nothing(name, outputs, monkeypatch, capsys):
    audit = sourcetrace.open_audit(outputs)
    monkeypatch.setattr("sourcetrace.opened.open_audit", lambda _: audit)
    monkeypatch.chdir(file_of(name).parent)
    names = {}
    for number, cell in enumerate(cells_of(name)):
        source = "".join(cell["source"])
        assert not re.search(r"^\s*(def|class) ", source, re.MULTILINE)
        exec(compile(source, f"cell {number}", "exec"), names)
    if name == "one_querys_story":
        assert "Its margin is 0" in capsys.readouterr().out
        assert names["curve"]["share"][-1] == pytest.approx(1)
    else:
        assert names["points"].height == 40


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_saved_is_small_and_of_no_machine(name):
    text = file_of(name).read_text("utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/(home|work|tmp|root|Users)/|file://", text)
    assert all(cell["outputs"] for cell in cells_of(name))
