"""Every stored result is used as it was written for the audit that is there, or refused.

A tiny audit is made once, and once more with each of another argument, code, data and checkpoints.
Faults are put into copies, and the first node that reads the result is run, in this process, with
the project's own catalog.
"""

import copy
import os
import shutil
import sys
from contextlib import contextmanager
from functools import cache, reduce
from operator import getitem
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from torch import nn

from sourcetrace import parameters as groups
from sourcetrace.errors import InputError
from sourcetrace.hooks.standing import StandingResultsHook
from sourcetrace.pipeline_registry import register_pipelines
from sourcetrace.pipelines.audit import (
    JUDGEMENT,
    STAGES,
    create_audit,
    create_stage,
)
from sourcetrace.schemas import DecisionLog
from sourcetrace.work.unit import KeptFile
from tests import REPOSITORY
from tests.tiny import seeded, state_of

RECORD = ".made_of.json"
TASK = """
import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.tasks import ClassificationTask

WEIGHT = 1.0


class Small(ClassificationTask):
    def __init__(self, scale=1.0, examples=12):
        held = torch.load("data/01_raw/examples.pt")
        self.inputs, self.labels, self.examples = held["inputs"] * scale, held["labels"], examples

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def train_examples(self):
        return TensorDataset(self.inputs[2:][: self.examples], self.labels[2:][: self.examples])

    def query_examples(self):
        return TensorDataset(self.inputs[:2], self.labels[:2])

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in range(self.examples)]})

    def query_table(self):
        return pl.DataFrame({"example_id": ["q0", "q1"]})

    def train_loss(self, outputs, batch):
        return WEIGHT * super().train_loss(outputs, batch)

    def picture(self, index):
        return self.inputs[2 + index].abs().clamp(max=1)[None].numpy()
"""
MODELS = {
    "task": groups.TaskParameters,
    "segments": groups.SegmentParameters,
    "gradients": groups.GradientParameters,
    "launch": groups.LaunchParameters,
    "attribution": groups.AttributionParameters,
    "report": groups.ReportParameters,
    "gate": groups.GateParameters,
    "cleaning": groups.CleaningParameters,
    "comparison": groups.ComparisonParameters,
    "verification": groups.VerificationParameters,
}


def write_inputs(folder, *, seed=0, data_seed=0, task=TASK):
    """Write a task, its data and two checkpoints."""
    raw = folder / "data/01_raw"
    (raw / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "audited_task.py").write_text(task)
    with seeded(data_seed):
        torch.save(
            {"inputs": torch.randn(14, 3), "labels": torch.arange(14) % 2}, raw / "examples.pt"
        )
    with seeded(seed):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in (10, 20):
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            torch.save(state_of(step, model, optimizer), raw / f"checkpoints/step_{step}.pt")


ENTRIES = {
    name: entry["dataset"] if entry["type"].endswith("MlflowArtifactDataset") else entry
    for name, entry in yaml.safe_load((REPOSITORY / "conf/base/catalog.yml").read_text()).items()
    if not name.startswith("_")
}
"""The project's catalog, what goes to MLflow as it lies on disk."""

FOR_PEOPLE = {"review_list_csv", "cleaning_report"}
"""What no stage computes with."""

AUDITED = {
    name: entry
    for name, entry in ENTRIES.items()
    if entry["type"].endswith(".AuditedDataset") and name not in FOR_PEOPLE
}


BYTES_ALONE = {name for name, entry in AUDITED.items() if "identity" not in entry}
"""What may be of an earlier audit, and says of which."""

EMPTY = {
    "cleaning_result": {
        "scores_digest": "",
        "of": "decisions",
        "removed": 0,
        "relabelled": 0,
        "seeds": 0,
        "random": 0,
        "held_out": False,
        "examples": 0,
        "predicted": 0.0,
        "gains": [],
    },
    "comparison_summary": {},
    "decision_summary": {
        "scores_digest": "",
        "added": {},
        "repeated": 0,
        "of_other_audits": 0,
        "standing": {},
        "examples": 0,
        "shares": {},
        "sampled": False,
    },
    "gate_report": {},
    "ground_truth": {"scores_digest": "", "planted": 0, "examples": 0, "rankings": []},
}
"""What stands in files that are not there without a gate, decisions or planted errors."""


@cache
def defaults():
    files = sorted((REPOSITORY / "conf/base").glob("parameters*.yml"))
    return {
        name: group for file in files for name, group in yaml.safe_load(file.read_text()).items()
    }


def catalog_of(*, scale=1.0, examples=12, **attribution):
    """Return the project's catalog and parameters, in a run with these arguments of the task."""
    given = {
        **defaults(),
        "task": {
            "class": "audited_task.Small",
            "arguments": {"scale": scale, "examples": examples},
        },
        "attribution": {"method": "source", "device": "cpu", **attribution},
        "gradients": {"cache": "disk", "batch_size": 5},
        "segments": {"count": 1},
    }
    catalog = DataCatalog.from_config(
        {
            name: {"type": "MemoryDataset"}
            if "mlflow" in entry["type"] or "tracking" in entry["type"]
            else resolved(entry, given)
            for name, entry in ENTRIES.items()
        }
    )
    for name, model in MODELS.items():
        catalog[f"params:{name}"] = MemoryDataset(model.model_validate(given[name]))
    catalog["params:tracking.registered_model"] = MemoryDataset(None)
    return catalog


def resolved(value, given):
    """Return a part of the catalog with the parameters that it names."""
    if isinstance(value, dict):
        return {key: resolved(part, given) for key, part in value.items()}
    if isinstance(value, str) and value.startswith("${parameter:"):
        return copy.deepcopy(reduce(getitem, value[12:-1].split("."), given))
    return value


@contextmanager
def inside(folder):
    """Work in a project's folder, whose task is imported anew."""
    before = Path.cwd()
    sys.modules.pop("audited_task", None)
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))


def run(folder, pipeline, *hooks, **arguments):
    manager = _create_hook_manager()
    for hook in hooks:
        manager.register(hook)
    with inside(folder):
        SequentialRunner().run(pipeline, catalog_of(**arguments), manager)


def refusal(folder, pipeline, **arguments):
    """Run a pipeline and return what it is refused with, to a reader of the terminal."""
    with pytest.raises(Exception) as caught:  # noqa: PT011, its cause is looked at
        run(folder, pipeline, **arguments)
    error = caught.value
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    assert error is not None, repr(caught.value)
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """The audit, and others: name -> folder and arguments."""
    made = {}
    folders = [one for stage in STAGES.values() for one in stage if one != "page"]
    tables = create_stage(*folders)
    for name, written, arguments in (
        ("this", {}, {}),
        ("arguments", {}, {"scale": 2.0}),
        ("code", {"task": TASK.replace("WEIGHT = 1.0", "WEIGHT = 2.0")}, {}),
        ("data", {"data_seed": 1}, {}),
        ("checkpoint", {"seed": 1}, {}),
    ):
        folder = tmp_path_factory.mktemp(name)
        write_inputs(folder, **written)
        run(folder, create_audit() if name == "this" else tables, **arguments)
        with inside(folder):
            catalog = catalog_of()
            for entry in sorted(BYTES_ALONE):  # empty, as before a verification
                content = catalog.load(entry)
                catalog.save(entry, EMPTY[entry] if content is None else content)
        made[name] = folder
    return made


UNREAD = {
    "attribution_scores",  # its files are read under another name
    "query_contributions",  # its own stage makes other tables of it
}


@cache
def readers():
    """Return result -> the pipeline up to the first node of a stage that reads it alone."""
    stages = [create_stage(*folders) for folders in STAGES.values()]
    makes = {name: stage for stage in stages for name in stage.outputs() | made_within(stage)}
    makes["score_files"] = makes["attribution_scores"]
    found = {}
    later = map(create_stage, ("verification", "verify_cleaning"))
    for stage in (*stages, create_stage(*JUDGEMENT), *later):
        for node in stage.nodes:
            for name in node.inputs:
                if name not in found and makes.get(name) is not stage:
                    found[name] = stage.to_nodes(node.name)
    return found


def made_within(stage):
    return {name for node in stage.nodes for name in node.outputs}


def path_of(name):
    inner = AUDITED[name]["dataset"]
    return Path(inner.get("filepath") or inner["path"])


def first_file(path):
    return min(path.iterdir()) if path.is_dir() else path


def flip(path, _):
    file = first_file(path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def truncate(path, _):
    file = first_file(path)
    file.write_bytes(file.read_bytes()[:-5])


def remove(path, _):
    first_file(path).unlink()


def swap(path, others):
    """Put another audit's file in its place; another table, where all have the same."""
    file, content = first_file(path), first_file(path).read_bytes()
    given = [first_file(other / path).read_bytes() for other in others.values()]
    given.append(path_of("checkpoint_manifest").read_bytes())
    file.write_bytes(next(one for one in given if one != content))


def forget(path, _):
    path.with_name(path.name + RECORD).unlink()


def exchange_with(name):
    def exchange(path, others):
        given = others[name] / path
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(given, path) if given.is_dir() else shutil.copy(given, path)
        shutil.copy(given.with_name(given.name + RECORD), path.with_name(path.name + RECORD))

    return exchange


FAULTS = {
    "flipped": flip,
    "truncated": truncate,
    "missing": remove,
    "swapped": swap,
    "unfinished": forget,
    **{name: exchange_with(name) for name in ("arguments", "code", "data", "checkpoint")},
}
SAID = {
    "arguments": "another task, other arguments of it or other code in its module",
    "code": "another task, other arguments of it or other code in its module",
    "data": "other training data or queries",
    "checkpoint": "other checkpoints",
}


@pytest.fixture
def broken(audits, tmp_path):
    """A copy of the audit to put a fault into."""
    shutil.copytree(audits["this"], tmp_path / "copy")
    return tmp_path / "copy"


def test_settings_in_json_beside_a_checkpoint_are_of_the_audit(broken):
    beside = broken / "data/01_raw/checkpoints/step_10.json"
    beside.write_text('{"learning_rates": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0]}')
    said = refusal(broken, create_stage("gradient_extraction"))
    assert "are not those that checkpoint_ingest described" in said
    run(broken, create_stage("checkpoint_ingest"))
    assert SAID["checkpoint"] in refusal(broken, create_stage("cleaning_report"))


def test_the_results_that_other_stages_read_are_all_checked():
    """What a pipeline takes from an earlier run is audited, if a pipeline of ours wrote it.

    What lives in memory between two nodes, as `page_content`, no pipeline takes from a run.
    """
    pipelines = register_pipelines().values()
    written = {name for pipeline in pipelines for name in made_within(pipeline)}
    read = {name for pipeline in pipelines for name in pipeline.inputs()}
    assert read & written - set(AUDITED) == {
        "audit_identity",  # what the others are held against
        "checkpoints",  # every byte is held against the manifest
        "planted_label_errors",  # the demo's answer key, no result of an audit
    }
    assert set(AUDITED) - set(readers()) == UNREAD


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (name, fault)
        for name in sorted(set(AUDITED) - UNREAD)
        for fault in FAULTS
        if name not in BYTES_ALONE or fault not in SAID
    ],
)
def test_a_result_with_a_fault_is_refused_by_its_first_reader(audits, broken, name, fault):
    path = path_of(name)
    others = {name: folder for name, folder in audits.items() if name != "this"}
    with inside(broken):
        FAULTS[fault](path, others)
    said = refusal(broken, readers()[name])
    assert path.name in said
    assert f"kedro run --pipelines {AUDITED[name]['stage']}" in said
    assert SAID.get(fault, "") in said


def test_without_a_fault_the_readers_run(broken):
    for name in ("query_signals", "query_influence", "score_files"):
        run(broken, readers()[name])


@pytest.mark.parametrize("content", [None, "", "{}", '{"data": "0", "checkpoints": "0"}'])
def test_without_what_was_audited_nothing_is_used(broken, content):
    file = broken / "data/02_intermediate/audit_identity.json"
    file.unlink() if content is None else file.write_text(content)
    said = refusal(broken, readers()["query_influence"])
    assert "kedro run --pipelines" in said
    assert "audit_identity.json" in said or "other training data" in said


class Called:
    """Which nodes' functions ran."""

    def __init__(self):
        self.nodes = set()

    @hook_impl
    def after_node_run(self, node, outputs):
        if not any(isinstance(one, KeptFile) for one in outputs.values()):
            self.nodes.add(node.name)


def called(folder, pipeline):
    hook = Called()
    run(folder, pipeline, StandingResultsHook(), hook)
    return hook.nodes


def test_a_report_that_stands_is_not_written_again_and_with_a_decision_it_is(broken):
    report = create_stage(*STAGES["cleaning_report"])
    made = {"list_for_review", "find_groups", "find_issues", "render_page"}
    assert made <= called(broken, report)
    before = (broken / "data/08_reporting/cleaning_report.html").read_bytes()
    assert not made & called(broken, report)
    with inside(broken):
        listed = catalog_of().load("review_list")
        decided = {**dict.fromkeys(DecisionLog.columns()), **listed.row(0, named=True)}
        said = {"decision": "keep", "decided_by": "me", "decided_at": "2026-01-01T00:00:00"}
        decided |= {**said, "scores_digest": ""}
        decided = {name: decided[name] for name in DecisionLog.columns()}
        catalog_of().save("decision_log", DecisionLog.frame([decided]))
    assert made <= called(broken, report)
    after = (broken / "data/08_reporting/cleaning_report.html").read_bytes()
    assert b"1 decision stands" in after
    assert b"1 decision stands" not in before


CHANGES = {
    "an argument": ({}, {"scale": 2.0}),
    "fewer examples": ({}, {"examples": 11}),
    "the loss": ({"task": TASK.replace("WEIGHT = 1.0", "WEIGHT = 2.0")}, {}),
}
UNSEEN_BY_TABLES = {"the inputs": ({"data_seed": 1}, {}), "a checkpoint": ({"seed": 1}, {})}
NUMERICAL = ("gradient_extraction", "ekfac_fitting", "source_scoring")


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        *((change, stage) for change in CHANGES for stage in (*NUMERICAL, "cleaning_report")),
        *((change, stage) for change in UNSEEN_BY_TABLES for stage in NUMERICAL),
    ],
)
def test_what_changed_between_stages_is_noticed(broken, change, stage):
    written, arguments = {**CHANGES, **UNSEEN_BY_TABLES}[change]
    write_inputs(broken, **written)
    said = refusal(broken, create_stage(stage), **arguments)
    assert "kedro run --pipelines audit" in said


def test_labels_exchanged_between_stages_are_noticed(broken):
    file = broken / "data/01_raw/examples.pt"
    held = torch.load(file)
    torch.save({**held, "labels": held["labels"].flip(0)}, file)
    assert "inputs, labels, a column" in refusal(broken, create_stage("source_scoring"))


@pytest.mark.parametrize("change", UNSEEN_BY_TABLES)
@pytest.mark.parametrize("then", ["cleaning_report", "gate"])
def test_what_was_ingested_anew_makes_old_results_unusable(broken, change, then):
    write_inputs(broken, **UNSEEN_BY_TABLES[change][0])
    run(broken, create_stage("checkpoint_ingest"))
    reader = create_stage(*JUDGEMENT) if then == "gate" else create_stage(then)
    assert "was made with other" in refusal(broken, reader)


def test_another_tolerance_needs_no_new_gradients_and_another_method_does(broken):
    refused = refusal(broken, create_stage("cleaning_report"), tolerance=0.01)
    assert "other settings of attribution" in refused
    run(broken, create_stage("source_scoring"), tolerance=0.01)
    for stage in ("ekfac_fitting", "source_scoring"):
        assert "another method, seed" in refusal(broken, create_stage(stage), method="influence")


def test_a_kill_after_the_first_scores_leaves_nothing_to_report(broken, monkeypatch):
    """The first of the new files is over the earlier result, and the process is gone."""

    def die(source, target):
        link(source, target)
        raise KeyboardInterrupt

    link = os.link
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", die)
        with pytest.raises(KeyboardInterrupt):
            run(broken, create_stage("source_scoring"))
    for reader in (
        create_stage("cleaning_report"),
        create_stage(*JUDGEMENT),
        create_stage("verification"),
    ):
        assert "attribution_scores is not complete" in refusal(broken, reader)
    run(broken, create_stage("source_scoring"))
    run(broken, readers()["query_influence"])


@pytest.mark.parametrize("fault", ["flipped", "truncated", "swapped", "missing"])
def test_a_block_of_gradients_is_checked_or_computed_again(broken, fault):
    one, other, *_ = sorted((broken / "data/04_feature/gradients").glob("*/*.safetensors"))
    scores = broken / path_of("attribution_scores")
    before = [file.read_bytes() for file in sorted(scores.iterdir())]
    shutil.rmtree(
        broken / "data/04_feature/gradients/units/source_scoring"
    )  # so that they are read
    if fault == "swapped":
        shutil.copy(other, one)
    else:
        FAULTS[fault](one, {})
    if fault != "missing":
        said = refusal(broken, create_stage("source_scoring"))
        assert one.name in said
        assert "kedro run --pipelines gradient_extraction" in said
        return
    run(broken, create_stage("source_scoring"))
    assert [file.read_bytes() for file in sorted(scores.iterdir())] == before


def test_signals_are_those_of_their_own_folder_whatever_it_is_called(tmp_path):
    found = []
    for number, name in enumerate(("run1", "run[12]")):
        file = str(tmp_path / name / "example_signals.parquet")
        entry = ENTRIES["example_signals"]["dataset"] | {"filepath": file}
        catalog = DataCatalog.from_config({"signals": entry})
        catalog.save("signals", pl.DataFrame({"number": [number]}))
        found.append(catalog.load("signals").collect().item())
    assert found == [0, 1]


def test_an_audit_that_keeps_no_scores_is_the_same_and_what_needs_them_is_refused(broken):
    given = {"precision": {"stored_scores": "strongest"}}
    same = ("query_strongest", "query_shares", "query_helpers", "example_issues", "review_list")
    with inside(broken):
        whole = {name: catalog_of().load(name) for name in same}
        digest = catalog_of().load("audit_summary")["scores_digest"]
    run(broken, create_stage("source_scoring", *STAGES["cleaning_report"], *JUDGEMENT), **given)
    with inside(broken):
        catalog = catalog_of(**given)
        assert catalog.load("attribution_scores").columns == ["example_id", "scores_digest"]
        summary = catalog.load("audit_summary")
        assert summary["scores_digest"] != digest
        assert not summary["scores_kept"]
        assert not summary["trust"]["command"]
        assert "stored_scores kept none" in catalog.load("audit_result")["trust"]["text"]
        for name, table in whole.items():
            assert catalog.load(name).equals(table), name
    for stage in ("verification", "verify_cleaning"):
        said = refusal(broken, create_stage(stage), **given)
        assert "Set attribution.precision.stored_scores to float32 or float16" in said
