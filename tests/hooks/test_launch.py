"""The first process leads the others of its launch, through all its sessions."""

import sys
from types import SimpleNamespace

import pytest
from kedro.config import MissingConfigException
from kedro.pipeline import Pipeline

from sourcetrace.errors import InputError
from sourcetrace.hooks.launch import LaunchHook
from sourcetrace.pipelines.audit import create_audit
from sourcetrace.work import orders
from sourcetrace.work.crew import CREW
from sourcetrace.work.orders import OrderFile
from sourcetrace.work.ranks import Rank


class Loader(dict):
    def __missing__(self, name):
        raise MissingConfigException(name)


@pytest.fixture
def context(tmp_path):
    cache = {"type": "sourcetrace.datasets.GradientCacheDataset", "path": "gradients"}
    catalog = {"b.gradient_cache": {**cache, "path": "other"}, "a.cache": cache, "_text": "text"}
    loader = Loader(catalog=catalog, parameters={"a": {"launch": {"processes": 1}}})
    return SimpleNamespace(project_path=tmp_path, config_loader=loader)


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(orders, "_POLL_SECONDS", 0.01)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "night"}.items():
        monkeypatch.setenv(name, value)
    hook = LaunchHook()
    yield hook
    if hook._file is not None:
        hook._file._end()
    CREW.prepare(dict, None)


def begin(hook, context):
    session = hook.after_context_created(context)
    next(session)
    with pytest.raises(StopIteration):
        session.send(None)


def test_the_others_follow_the_first_through_all_its_sessions(hook, context, tmp_path):
    begin(hook, context)
    other = OrderFile(tmp_path / "gradients/orders", Rank.here().launch).follow(5)
    for _ in range(2):
        begin(hook, context)
        hook.before_pipeline_run(create_audit("a"))
        CREW.call("source_scoring", size=2, threads=3)
        order = next(other)
        assert (order["stage"], order["threads"]) == ("source_scoring", 3)
    assert order["inputs"]["check_inputs"]["train_table"] == "a.train_table"
    assert order["inputs"]["set_up_audit"]["launch"] == "params:a.launch"
    assert order["inputs"]["score_examples"]["curvature"] == "a.curvature"
    hook._file._end()
    assert list(other) == []


def test_a_project_without_an_audit_has_no_orders(hook, context):
    context.config_loader["catalog"] = {"table": {"type": "polars.CSVDataset", "path": "table"}}
    begin(hook, context)
    hook.before_pipeline_run(Pipeline([]))
    assert hook._file is None


def test_a_wrong_rank_is_told_without_a_traceback(hook, context, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError) as refused:
        begin(hook, context)
    sys.excepthook(refused.type, refused.value, refused.tb)
    told = capsys.readouterr().err
    assert "RANK is '2'" in told
    assert "Traceback" not in told
