"""Several training runs in sub-folders, from their files to the scores."""

import logging
from uuid import uuid4

import polars as pl
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.audit.suggestions.members import average_signals
from sourcetrace.audit.suggestions.suspicion import weigh_evidence
from sourcetrace.datasets import CheckpointsDataset, GradientCacheDataset
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    ReportParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.cleaning_report.nodes import list_for_review
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.schemas import (
    CheckpointManifest,
    CurvatureSpectra,
    DecisionLog,
    ExampleSignals,
    QueryHistory,
    SegmentContributions,
)
from sourcetrace.tasks import ClassificationTask
from tests.pipelines.test_training import score_tables


class Adapted(nn.Module):
    """A linear layer that is frozen, and a low-rank one beside it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.trunk = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Linear(inputs, 2, bias=False)
        self.up = nn.Linear(2, outputs, bias=False)

    def forward(self, values):
        return self.trunk(values) + self.up(self.down(values))


class Tiny(ClassificationTask):
    """Six training examples and two queries in three classes."""

    def __init__(self, layer=nn.Linear, stages=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.inputs = torch.randn(8, 3, dtype=torch.float64)
        self.labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        self.layer, self.stages = layer, stages

    def build_model(self, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)  # the frozen trunk is everybody's
            model = nn.Sequential(self.layer(3, 4), nn.Tanh(), self.layer(4, 3)).double()
            torch.manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    nn.init.uniform_(parameter, -1, 1)
        return model

    def train_examples(self):
        return TensorDataset(self.inputs[:6], self.labels[:6])

    def query_examples(self):
        return TensorDataset(self.inputs[6:], self.labels[6:])

    def train_table(self):
        table = pl.DataFrame({"example_id": [f"e{i}" for i in range(6)]})
        return table if self.stages is None else table.with_columns(stage=pl.Series(self.stages))

    def query_table(self):
        return pl.DataFrame({"example_id": ["q0", "q1"]})


def train(folder, task, *, seed, steps=(10, 20, 30), optimizer=None, stage=None):
    """Train from the seed's weights, and save a checkpoint at each of `steps`."""
    model = task.build_model(seed).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = (optimizer or torch.optim.SGD)(trained, lr=0.1)
    folder.mkdir(parents=True)
    for step in range(1, steps[-1] + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.inputs[:6]), task.labels[:6]).backward()
        optimizer.step()
        if step in steps:
            content = {
                "step": step,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
            }
            torch.save(content | ({"stage": stage} if stage else {}), folder / f"step_{step}.pt")


def audit(folder, task=None, *, method="source", count=2):
    """Run the numerical stages; return their tables and the manifest."""
    task = task or Tiny()
    attribution = AttributionParameters(method=method, device="cpu")
    checkpoints = CheckpointsDataset(path=str(folder)).load()
    manifest, _, training, queries, _, digests = ingest_checkpoints(
        checkpoints, task, SegmentParameters(count=count), attribution
    )[1:]
    CheckpointManifest.validate(manifest)
    gradients = GradientParameters(cache="memory", batch_size=4)
    setup = set_up_audit(
        Ingested(task, checkpoints, manifest, training, queries, data="", identity=uuid4().hex),
        GradientCacheDataset(path=str(folder / "../cache")).load(),
        gradients,
        attribution,
    )
    signals, query_signals, history, *_ = extract_gradients(setup, gradients)
    QueryHistory.validate(history)
    signals = ExampleSignals.validate(signals.collect())
    curvature, spectra, _ = fit_curvature(setup, query_signals)
    CurvatureSpectra.validate(spectra)
    scores, influence, own, contributions, _ = score_tables(setup, curvature)
    SegmentContributions.validate(contributions)
    reviewed, _ = list_for_review(
        training,
        manifest,
        signals,
        query_signals,
        influence,
        own,
        weigh_evidence(training, manifest, signals, history, influence, own),
        {"training": {}},
        digests,
        DecisionLog.frame(),
        ReportParameters(),
    )
    return {
        "manifest": manifest,
        "scores": scores["scores"].to_numpy(),
        "self_influence": own["self_influence"].to_numpy(),
        "contributions": contributions,
        "influence": influence,
        "signals": signals,
        "query_signals": query_signals,
        "review_list": reviewed,
    }


def both_and_alone(tmp_path, task=None, **settings):
    """Train two runs; audit them together and each alone."""
    task = task or Tiny()
    train(tmp_path / "all" / "run2", task, seed=3, **settings)
    train(tmp_path / "all" / "run10", task, seed=4, steps=(5, 30), **settings)
    alone = [audit(tmp_path / "all" / name, task) for name in ("run2", "run10")]
    return audit(tmp_path / "all", task), alone


def assert_mean(together, alone, name, rel=1e-5):
    expected = sum(one[name] for one in alone) / len(alone)
    assert together[name] == pytest.approx(expected, rel=rel, abs=1e-9)
    assert alone[0][name] != pytest.approx(alone[1][name], rel=0.01)


def test_sub_folders_are_runs_whose_scores_are_averaged(tmp_path):
    together, alone = both_and_alone(tmp_path)
    manifest = together["manifest"]
    assert manifest["run"].to_list() == ["run2"] * 3 + ["run10"] * 2
    assert manifest["checkpoint_id"][0] == "run2/step_10"
    assert manifest["file"][4] == "run10/step_30.pt"
    assert manifest["segment"].to_list() in ([1, 1, 2, 3, 4], [1, 2, 2, 3, 4])
    assert_mean(together, alone, "scores")
    assert_mean(together, alone, "self_influence", rel=1e-12)
    sums = (
        together["contributions"]
        .group_by("example_id", maintain_order=True)
        .agg(pl.col("harm").sum())
    )
    assert sums["harm"].to_numpy() == pytest.approx(together["influence"]["harm"].to_numpy())
    for table in ("query_signals", "review_list"):
        losses = [one[table].sort("example_id")["loss"].to_numpy() for one in alone]
        mean = together[table].sort("example_id")["loss"].to_numpy()
        assert mean == pytest.approx(sum(losses) / 2)


def test_one_sub_folder_is_the_plain_run_to_the_byte(tmp_path):
    train(tmp_path / "all" / "run0", Tiny(), seed=3)
    foldered, plain = audit(tmp_path / "all"), audit(tmp_path / "all" / "run0")
    assert plain["manifest"]["run"].to_list() == [""] * 3
    assert foldered["scores"].tobytes() == plain["scores"].tobytes()
    assert foldered["self_influence"].tobytes() == plain["self_influence"].tobytes()
    assert foldered["contributions"].equals(plain["contributions"])


def test_each_run_has_its_own_second_moments(tmp_path):
    assert_mean(*both_and_alone(tmp_path, optimizer=torch.optim.Adam), "scores")


def test_adapters_on_one_frozen_trunk_are_runs(tmp_path):
    together, alone = both_and_alone(tmp_path, Tiny(layer=Adapted))
    assert_mean(together, alone, "scores")
    share = together["manifest"]["attributed_share"][0]
    assert share == pytest.approx((2 * (3 + 4) * 2) / (2 * (3 + 4) * 2 + 16 + 15))


def test_each_run_is_checked_on_its_own_and_all_have_the_same_stages(tmp_path):
    train(tmp_path / "run0", Tiny(), seed=3)
    train(tmp_path / "run1", Tiny(), seed=4, steps=(20, 30), stage="finetuning")
    with pytest.raises(InputError, match=r"Run 'run1' has stages finetuning, but run 'run0' has"):
        audit(tmp_path)
    other = torch.load(tmp_path / "run0" / "step_10.pt")
    other["model_state_dict"]["0.weight"] += 1
    torch.save(other, tmp_path / "run0" / "step_11.pt")
    with pytest.raises(InputError, match=r"run0/step_10 and run0/step_11 both say step 10"):
        audit(tmp_path)


def test_folders_without_checkpoints_are_no_runs_and_files_come_first(tmp_path):
    train(tmp_path / "run0", Tiny(), seed=3)
    (tmp_path / "logs").mkdir()
    folder = CheckpointsDataset(path=str(tmp_path)).load()
    assert {folder.load(file, Tiny().build_model()).record.run for file in folder.files()} == {
        "run0"
    }
    torch.save(torch.load(tmp_path / "run0" / "step_10.pt"), tmp_path / "step_10.pt")
    assert [file.name for file in folder.files()] == ["step_10.pt"]
    with pytest.raises(Exception, match="they are left as they are"):
        CheckpointsDataset(path=str(tmp_path)).save([])


def test_the_log_names_the_runs(tmp_path, caplog):
    train(tmp_path / "all" / "run0", Tiny(), seed=3)
    train(tmp_path / "all" / "run1", Tiny(), seed=4)
    with caplog.at_level(logging.INFO):
        audit(tmp_path / "all")
    assert "6 checkpoints of 2 runs in 4 segments" in caplog.text


def test_members_are_averaged_and_the_commonest_label_stands():
    signals = pl.DataFrame(
        {
            "example_id": ["a", "b"] * 3,
            "loss": [1.0, 2.0, 3.0, 4.0, 5.0, 9.0],
            "predicted_label": ["x", "y", "z", "x", "z", "w"],
        }
    )
    mean = average_signals(signals)
    assert mean.rows() == [("a", 3.0, "z"), ("b", 5.0, "y")]
    single = signals.head(2)
    assert average_signals(single).equals(single)
