"""What a process that is not the first does of a stage is what a node of the first does."""

from importlib import import_module
from inspect import signature

import pytest

from sourcetrace.pipelines.audit import create_stage
from sourcetrace.pipelines.worker import STAGES, _Run


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_makes_or_reads_what_a_stages_work_takes(stage, monkeypatch):
    node, module, name = STAGES[stage]
    (function,) = [one.func for one in create_stage(stage).nodes if one.name == node]
    called = []
    monkeypatch.setattr(_Run, "_call", lambda self, function, node, **made: called.append(made))
    monkeypatch.setattr(_Run, "setup", "set up")
    run = _Run({"catalog": {}, "credentials": {}, "parameters": {}}, ORDER)
    run.do(stage)
    *_, made = called
    assert list(made) == (["ingested"] if stage.startswith("verif") else ["setup"])
    work = signature(getattr(import_module(f"sourcetrace.pipelines.{module}"), name)).parameters
    assert set(work) - set(made) <= set(signature(function).parameters)


ORDER = {"run": 1, "inputs": {}, "threads": 1}
