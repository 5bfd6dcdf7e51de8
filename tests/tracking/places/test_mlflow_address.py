"""Checkpoints by MLflow's addresses, in what MLflow itself has written."""

from types import SimpleNamespace

import mlflow
import pytest
import torch
import transformers
from mlflow.tracking import MlflowClient
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.errors import InputError
from sourcetrace.tracking.places import mlflow_address
from sourcetrace.tracking.places.mlflow_address import mlflow_checkpoints
from sourcetrace.tracking.server.tracked import TRACKED
from tests.checkpoints.test_folder import checkpoint
from tests.tracking.door import free_port, mlflow_server

# MLflow's own use of SQLAlchemy, of the stages it deprecates, and what it says of pickles.
pytestmark = pytest.mark.filterwarnings("ignore")


def log_checkpoint(folder, step, path):
    """Log a checkpoint to the active run."""
    torch.save(checkpoint(step), folder / f"step_{step}.pt")
    mlflow.log_artifact(str(folder / f"step_{step}.pt"), path)


def log_model(folder, step, name="net", **options):
    """Log a pickled model, with a checkpoint beside the pickle unless it says otherwise."""
    torch.save(checkpoint(step), folder / "state.pt")
    # Named, they need not be found out, which takes MLflow seconds.
    extra = {"extra_files": [str(folder / "state.pt")], "pip_requirements": ["torch"], **options}
    return mlflow.pytorch.log_model(
        nn.Linear(2, 1), name=name, step=step, serialization_format="pickle", **extra
    ).model_uri


class _Linear(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def forward(self, x, labels=None):
        out = super().forward(x)
        return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Runs that logged artifacts, models with steps, and a pickled model alone."""
    folder = tmp_path_factory.mktemp("logged")
    before, address = mlflow.get_tracking_uri(), f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(address)
    client = MlflowClient()
    experiment = client.create_experiment("x", artifact_location=str(folder / "artifacts"))
    runs = {}
    for name in ("artifacts", "models", "pickled", "scattered"):
        with mlflow.start_run(experiment_id=experiment) as run:
            runs[name] = run.info.run_id
            if name == "artifacts":
                log_checkpoint(folder, 10, "checkpoints")
                log_checkpoint(folder, 20, "checkpoints")
                mlflow.log_text("x", "notes.txt")
            elif name == "models":
                models = [log_model(folder, step) for step in (10, 20, 30)]
            elif name == "pickled":
                pickled = log_model(folder, 10, extra_files=None)
            else:
                log_checkpoint(folder, 10, "one/deep")
                log_checkpoint(folder, 20, "two/deep")
    versions = {
        name: mlflow_version(client, source, run)
        for name, source, run in (
            ("models", models[1], runs["models"]),
            ("artifacts", pickled, runs["artifacts"]),
            ("pickled", pickled, runs["pickled"]),
            ("elsewhere", "s3://bucket/model", None),
        )
    }
    client.set_registered_model_alias("churn", "candidate", versions["artifacts"])
    mlflow.set_tracking_uri(before)
    return SimpleNamespace(
        address=address, runs=runs, models=models, pickled=pickled, versions=versions
    )


def mlflow_version(client, source, run):
    if not client.search_registered_models("name = 'churn'"):
        client.create_registered_model("churn")
    return client.create_model_version("churn", source, run_id=run).version


@pytest.fixture
def read(logged, tmp_path, monkeypatch):
    """A function that returns steps and names of the checkpoints at an address."""
    before = mlflow.get_tracking_uri()
    # As while a run goes on: MLflow's own is another than the project's server.
    monkeypatch.setattr(TRACKED, "address", logged.address)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'run.db'}")

    def steps(address):
        place = mlflow_checkpoints(address, str(tmp_path / "cache"))
        folder = CheckpointFolder(place) if place.is_dir() else None
        if folder is None:
            return [torch.load(place)["step"]], [place.name]
        found = [folder.load(file, nn.Linear(2, 1)) for file in folder.files()]
        return [one.record.step for one in found], [one.file for one in found]

    yield steps
    mlflow.set_tracking_uri(before)


@pytest.fixture
def elsewhere(monkeypatch):
    """Artifacts are not on this machine."""
    monkeypatch.setattr(mlflow_address, "local_folder", lambda _: None)


def test_artifacts_on_this_machine_are_read_where_they_are(read, logged, tmp_path):
    run = logged.runs["artifacts"]
    both = [10, 20], ["step_10.pt", "step_20.pt"]
    assert read(f"runs:/{run}/checkpoints") == read(f"runs:/{run}") == both
    assert read(f"runs:/{run}/checkpoints/step_20.pt") == ([20], ["step_20.pt"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("elsewhere")
def test_artifacts_elsewhere_are_fetched_once(read, logged, tmp_path):
    run = logged.runs["artifacts"]
    both = [10, 20], ["step_10.pt", "step_20.pt"]
    assert read(f"runs:/{run}/checkpoints") == read(f"runs:/{run}") == both
    assert read(f"runs:/{run}/checkpoints/step_20.pt") == ([20], ["step_20.pt"])
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.pt")}
    assert len(kept) == 5
    assert read(f"runs:/{run}") == both
    assert kept == {file: file.stat().st_mtime_ns for file in kept}


def test_logged_models_with_a_step_are_the_checkpoints_of_their_run(read, logged):
    run = logged.runs["models"]
    every = [10, 20, 30], [f"checkpoint-{step}/state.pt" for step in (10, 20, 30)]
    assert read(f"runs:/{run}") == read(f"runs:/{run}/net") == every
    assert read(logged.models[1]) == ([20], ["checkpoint-20/state.pt"])


def test_a_version_is_audited_by_its_run_up_to_its_own_model(read, logged):
    of_models = read(f"models:/churn/{logged.versions['models']}")
    assert of_models == ([10, 20], ["checkpoint-10/state.pt", "checkpoint-20/state.pt"])
    by_number = read(f"models:/churn/{logged.versions['artifacts']}")
    assert by_number == read("models:/churn@candidate") == ([10, 20], ["step_10.pt", "step_20.pt"])


@pytest.mark.parametrize("kind", ["run", "named", "model", "version"])
def test_a_pickled_model_is_not_unpickled(read, logged, kind):
    run = logged.runs["pickled"]
    addresses = {
        "run": f"runs:/{run}",
        "named": f"runs:/{run}/net",
        "model": logged.pickled,
        "version": f"models:/churn/{logged.versions['pickled']}",
    }
    with pytest.raises(InputError, match=r"not executed\. Log state dicts as well: mlflow\.pyt"):
        read(addresses[kind])


def test_models_without_a_step_are_named_by_themselves(read, logged, tmp_path, monkeypatch):
    """As the Trainer's own callback logs its checkpoints."""
    mlflow.set_tracking_uri(logged.address)
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "TRUE")
    monkeypatch.chdir(tmp_path)
    with mlflow.start_run(experiment_id="1") as run:
        arguments = transformers.TrainingArguments(
            output_dir="out", max_steps=4, save_steps=2, report_to=["mlflow"], use_cpu=True
        )
        rows = [{"x": torch.ones(2), "labels": torch.ones(1)}] * 8
        transformers.Trainer(_Linear(), arguments, train_dataset=rows).train()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'run.db'}")
    address = f"runs:/{run.info.run_id}"
    found = CheckpointFolder(mlflow_checkpoints(address, str(tmp_path / "cache")))
    loaded = [found.load(file, _Linear()) for file in found.files()]
    assert [(one.file, one.record.step) for one in loaded] == [
        ("checkpoint-2", 2),
        ("checkpoint-4", 4),
    ]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "runs:/{artifacts}/none",
            "no artifact and no logged model 'none'; its .* checkpoints, no",
        ),
        ("runs:/{scattered}", "has weights in one/deep, two/deep. Name the folder"),
        ("runs:/gone/checkpoints", "Run with id=gone not found"),
        ("runs:/{artifacts}/../..", "cannot be read from MLflow|no artifact"),
        ("models:/churn", "names no version"),
        ("models:/churn/99", "not found"),
        ("models:/churn@nobody", "alias"),
        ("models:/m-gone", "not found"),
        ("models:/churn/4", "no run and no logged model stands behind the version"),
    ],
)
def test_what_is_not_there_ends_in_a_paragraph(read, logged, address, said):
    with pytest.raises(InputError, match=said):
        read(address.format(**logged.runs))


def test_a_server_that_is_away_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(TRACKED, "address", f"http://user:word@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"http://\*\*\*@127\.0\.0\.1:\d+ is away") as caught:
        mlflow_checkpoints("runs:/abc/checkpoints", str(tmp_path))
    assert "word" not in str(caught.value)


@pytest.mark.slow
def test_a_server_serves_what_it_keeps(read, tmp_path, monkeypatch):
    with mlflow_server(tmp_path) as port:
        monkeypatch.setattr(TRACKED, "address", f"http://127.0.0.1:{port}")
        mlflow.set_tracking_uri(TRACKED.address)
        with mlflow.start_run(experiment_id="0") as run:
            log_checkpoint(tmp_path, 10, "checkpoints")
            log_checkpoint(tmp_path, 20, "checkpoints")
            model = log_model(tmp_path, 20)
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'run.db'}")
        address = f"runs:/{run.info.run_id}"
        both = [10, 20], ["step_10.pt", "step_20.pt"]
        assert read(f"{address}/checkpoints") == read(address) == both
        assert read(f"{address}/checkpoints/step_10.pt") == ([10], ["step_10.pt"])
        assert read(f"{address}/net") == read(model) == ([20], ["checkpoint-20/state.pt"])
        mlflow.set_tracking_uri(TRACKED.address)
        mlflow.set_experiment(experiment_id="0")  # other tests of the process have theirs
        with mlflow.start_run(run_id=run.info.run_id):  # begun again
            torch.save(checkpoint(15), tmp_path / "step_10.pt")  # as many bytes
            mlflow.log_artifact(str(tmp_path / "step_10.pt"), "checkpoints")
        assert read(f"{address}/checkpoints")[0] == [15, 20]
