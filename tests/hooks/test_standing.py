"""A node whose results stand gives them as they are; any other makes them anew."""

import json

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from sourcetrace.datasets.audited import AuditedDataset
from sourcetrace.datasets.optional import OptionalJSONDataset
from sourcetrace.hooks.standing import StandingResultsHook

CALLS = []


def doubled(given, factor):
    CALLS.append("doubled")
    return given * factor


def described(middle):
    CALLS.append("described")
    return f"{middle:g}", len(CALLS)


def told(text, beside):
    CALLS.append("told")
    return {"said": text, "beside": beside}


for one in (doubled, described, told):
    one.__module__ = "sourcetrace.pipelines.made_up"

PIPELINE = Pipeline(
    [
        node(doubled, ["given", "params:factor"], "middle"),
        node(described, "middle", ["text", "count"]),
        node(told, ["text", "beside"], "message"),
    ]
)


@pytest.fixture
def run(tmp_path):
    """Run the pipeline on what is in the folder, and return which functions were called."""

    def audited(name):
        file = str(tmp_path / f"{name}.json")
        return AuditedDataset({"type": "json.JSONDataset", "filepath": file}, "cleaning_report")

    def run(factor=2, *, beside=None):
        CALLS.clear()
        if beside is not None:
            (tmp_path / "beside.json").write_text(json.dumps(beside))
        entries = {name: audited(name) for name in ("text", "count", "message")}
        entries["given"] = OptionalJSONDataset(str(tmp_path / "given.json"))
        entries["beside"] = OptionalJSONDataset(str(tmp_path / "beside.json"))
        entries["params:factor"] = MemoryDataset(factor)
        manager = _create_hook_manager()
        manager.register(StandingResultsHook())
        SequentialRunner().run(PIPELINE, DataCatalog(entries), manager)
        return list(CALLS)

    (tmp_path / "given.json").write_text("3")
    assert run() == ["doubled", "described", "told"]
    return run


def test_a_second_run_makes_what_is_in_memory_alone_and_leaves_the_files(run, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert run() == ["doubled"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    assert json.loads((tmp_path / "message.json").read_text()) == {"said": "6", "beside": None}


def test_what_a_changed_file_or_parameter_decides_is_made_again(run, tmp_path):
    assert run(4) == ["doubled", "described", "told"]
    (tmp_path / "given.json").write_text("5")
    assert run(4) == ["doubled", "described", "told"]
    assert json.loads((tmp_path / "message.json").read_text())["said"] == "20"
    assert run(4, beside=[1]) == ["doubled", "told"]
    assert run(4, beside=[1]) == ["doubled"]


def test_what_comes_out_the_same_has_nothing_made_again_that_follows(run, tmp_path):
    (tmp_path / "given.json").write_text("3.0")
    assert run() == ["doubled", "described"]


@pytest.mark.parametrize("file", ["text.json", "count.json", "text.json.made_of.json"])
def test_what_is_damaged_or_gone_is_made_again(run, tmp_path, file):
    (tmp_path / file).write_text("{}")
    assert "described" in run()
    (tmp_path / file).unlink()
    assert "described" in run()
    assert run() == ["doubled"]


def test_other_code_makes_everything_again(run, monkeypatch):
    monkeypatch.setattr("sourcetrace.hooks.standing.code_part", lambda: "other")
    assert run() == ["doubled", "described", "told"]


def test_functions_of_other_projects_and_of_unknown_inputs_are_called(run, monkeypatch):
    monkeypatch.setattr(described, "__module__", "theirs.nodes")
    assert run() == ["doubled", "described"]
    monkeypatch.undo()
    assert run() == ["doubled", "described"]
    assert run() == ["doubled"]


def test_a_node_has_its_function_back(run):
    functions = [one.func for one in PIPELINE.nodes]
    run()
    assert [one.func for one in PIPELINE.nodes] == functions == [doubled, described, told]
