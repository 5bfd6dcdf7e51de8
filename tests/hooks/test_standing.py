"""A node whose results stand gives them as they are; any other makes them anew."""

import json

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset, Version
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner
from kedro_datasets.json import JSONDataset

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


def added(known, wanted):
    new = sorted({*wanted} - {*(known or [])})
    return new, [*(known or []), *new]


def counted(new):
    return {"new": len(new)}


for one in (doubled, described, told, added, counted):
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


def test_what_a_node_has_read_counts_as_it_was_then(tmp_path):
    summary = tmp_path / "summary.json"

    def run(wanted):
        entries = {name: OptionalJSONDataset(str(tmp_path / "log.json")) for name in ("log", "all")}
        definition = {"type": "json.JSONDataset", "filepath": str(summary)}
        entries["summary"] = AuditedDataset(definition, "apply_decisions")
        entries["params:wanted"] = MemoryDataset(wanted)
        manager = _create_hook_manager()
        manager.register(StandingResultsHook())
        count = node(counted, "new", "summary")
        pipeline = Pipeline([node(added, ["log", "params:wanted"], ["new", "all"]), count])
        SequentialRunner().run(pipeline, DataCatalog(entries), manager)
        return json.loads(summary.read_text())["new"]

    assert run(["a", "b"]) == 2
    assert run(["a", "b"]) == 0
    before = summary.stat().st_mtime_ns
    assert run(["a", "b"]) == 0
    assert summary.stat().st_mtime_ns == before


def test_what_is_read_from_another_place_than_a_file_is_not_known(tmp_path):
    count = AuditedDataset(
        {"type": "json.JSONDataset", "filepath": str(tmp_path / "count.json")}, "cleaning_report"
    )

    def run(new):
        version = Version(None, f"2026-01-0{len(new)}T00.00.00.000Z")
        entry = JSONDataset(filepath=str(tmp_path / "new.json"), version=version)
        entry.save(new)
        entry = JSONDataset(filepath=entry._filepath, version=Version(None, None))
        manager = _create_hook_manager()
        manager.register(StandingResultsHook())
        pipeline = Pipeline([node(counted, "new", "count")])
        SequentialRunner().run(pipeline, DataCatalog({"new": entry, "count": count}), manager)
        return count.load()["new"]

    assert [run("a"), run("ab")] == [1, 2]


def test_what_an_entry_of_the_catalog_says_counts(tmp_path):
    def run(kind, indent, wanted="ab"):
        file = {"filepath": str(tmp_path / "summary.json"), "save_args": {"indent": indent}}
        given = {"type": "json.JSONDataset", "filepath": str(tmp_path / "new.json")}
        entries = {
            "new": AuditedDataset({**given, "type": kind}, "cleaning_report"),
            "summary": AuditedDataset({"type": "json.JSONDataset", **file}, "cleaning_report"),
        }
        (tmp_path / "new.json").write_text(json.dumps(wanted))
        entries["new"].confirm()
        manager = _create_hook_manager()
        manager.register(StandingResultsHook())
        pipeline = Pipeline([node(counted, "new", "summary")])
        SequentialRunner().run(pipeline, DataCatalog(entries), manager)
        return (tmp_path / "summary.json").read_text()

    assert run("json.JSONDataset", None) == '{"new": 2}'
    assert run("json.JSONDataset", 1) == '{\n "new": 2\n}'
    assert run("text.TextDataset", 1) == '{\n "new": 4\n}'


def test_a_node_has_its_function_back(run):
    functions = [one.func for one in PIPELINE.nodes]
    run()
    assert [one.func for one in PIPELINE.nodes] == functions == [doubled, described, told]
