"""The notebook's cells run on an audit's tables, and what is saved with them is fit to be read."""

import json
import re
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import polars as pl
import pytest
from kedro.framework.session import KedroSession

from tests import REPOSITORY
from tests.reporting.test_explanation import explanations

NOTEBOOK = REPOSITORY / "notebooks/why_this_completion.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def tables(query):
    texts = ["a young film", "a dull film", "lobsters are blue"]
    ids = [f"text-{i}" for i in range(3)]
    return {
        "train_table": pl.DataFrame(
            {
                "example_id": ids,
                "stage": [["general"], ["narrow"], ["general"]],
                "prompt": "",
                "completion": texts,
            }
        ),
        "query_table": pl.DataFrame(
            {"example_id": ["other", query], "prompt": "the film", "completion": " is young"}
        ),
        "attribution_scores": pl.DataFrame(
            {"example_id": ids, "scores": [[0.0, 0.3], [0.0, 0.1], [9.0, -0.2]]},
            schema_overrides={"scores": pl.Array(pl.Float32, 2)},
        ),
    }


def test_its_cells_run(cells, monkeypatch):
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    query = re.search(r'QUERY = .*"(.+)"', code[0])[1]
    catalog = SimpleNamespace(load=tables(query).__getitem__)
    session = SimpleNamespace(load_context=lambda: SimpleNamespace(catalog=catalog))
    monkeypatch.setattr(KedroSession, "create", lambda *_, **__: nullcontext(session))
    monkeypatch.setattr("kedro.framework.startup.bootstrap_project", lambda _: None)
    said = SimpleNamespace(stdout=explanations(text="<young>").model_dump_json())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    monkeypatch.chdir(NOTEBOOK.parent)
    names = {}
    with pl.Config():
        for number, source in enumerate(code):
            exec(compile(source, f"cell {number}", "exec"), names)
    assert names["found"]["example_id"].to_list() == ["text-0", "text-1", "text-2"]
    assert names["totals"].sort("stage")["texts"].to_list() == [2, 1]
    assert names["both"].sort("rank_by_words")["example_id"][0] == "text-0"
    html = names["Coloured"](names["why"]["helpers"])._repr_html_()
    assert "&lt;young&gt;</span>" in html


def test_what_is_saved_is_small_and_of_no_machine(cells):
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/(home|work|tmp|root|Users)/|file://", text)
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
