"""The example of docs/guide/your_model.md as a project, audited in seconds.

Its training was a run that said what data it used, and registered a version of a model.
"""

import importlib.util
import re
import time
from pathlib import Path
from typing import Any

from sourcetrace.audit.identity.data_digest import data_digest
from sourcetrace.tracking.lineage.model_version import TRAINING_DIGEST
from tests.services.served_project import PASSES, ServedProject
from tests.services.tracking_server import TrackingServer
from tests.test_commands import REPOSITORY, train_churn_model

_TABLE = "data/01_raw/churn.parquet"


def churn_project(folder: Path, server: TrackingServer, *, model: str) -> ServedProject:
    """Make a project that audits version 1 of a model, which the server gets, and passes.

    Its experiment is called `audits of <model>`.
    """
    project = ServedProject(folder, server, experiment=f"audits of {model}")
    page = (REPOSITORY / "docs/guide/your_model.md").read_text(encoding="utf-8")
    code = next(b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "class ChurnTask" in b)
    (project.path / "churn.py").write_text(code)
    train_churn_model(project.path / "data/01_raw")
    register_version(server, model, digest=_digest(project.path))
    set_churn_parameters(project, model)
    return project


def set_churn_parameters(project: ServedProject, model: str, *, gate: str = PASSES) -> None:
    """Let the project audit version 1 of a model, with a gate."""
    project.set_parameters(
        f"task: {{class: churn.ChurnTask, arguments: {{table: {_TABLE}}}}}\n"
        "checkpoints: {path: data/01_raw/churn_checkpoints}\n"
        f"tracking: {{registered_model: {{name: {model}, version: 1}}}}\n{gate}"
    )


def register_version(server: TrackingServer, model: str, *, digest: str) -> str:
    """Register version 1 of a model that a run trained on data with this digest; return the run."""
    experiment = server.post("experiments/create", name=f"training of {model}")["experiment_id"]
    started = int(time.time() * 1000)
    run = server.post("runs/create", experiment_id=experiment, start_time=started)["run"]
    run_id: str = run["info"]["run_id"]
    server.post("runs/set-tag", run_id=run_id, key=TRAINING_DIGEST, value=digest)
    server.post("registered-models/create", name=model)
    source = f"{run['info']['artifact_uri']}/model"
    server.post("model-versions/create", name=model, source=source, run_id=run_id)
    return run_id


def _digest(project: Path) -> str:
    spec = importlib.util.spec_from_file_location("churn", project / "churn.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = module.ChurnTask(str(project / _TABLE))
    return data_digest(task.train_examples(), task.train_table())
