"""An audit that sets examples aside while it computes is the audit of the data without them."""

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn
from torch.utils.data import Dataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.core.engine.passes import Passes
from sourcetrace.datasets import CheckpointsDataset, GradientCacheDataset
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    LaunchParameters,
    SegmentParameters,
    TaskParameters,
    VerificationParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients, list_set_aside
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.verification.retrained import retrain_plan
from sourcetrace.pipelines.verification.retraining import Job
from sourcetrace.schemas.scores import ExampleSignals
from sourcetrace.tasks import ClassificationTask
from sourcetrace.tasks.set_aside import without_unusable
from tests.pipelines.gradient_extraction.test_work import Killed
from tests.pipelines.test_training import score_tables

STEPS, COUNT, QUERIES = (10, 20, 30), 12, 3
KEPT = [i for i in range(COUNT) if i not in (4, 7)]


class Items(Dataset):
    def __init__(self, inputs, labels, numbers):
        self.inputs, self.labels, self.numbers = inputs, labels, numbers
        self.raises = ()

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        if number in self.raises:
            raise OSError("disk on fire")
        return self.inputs[number], self.labels[number]


class Blobs(ClassificationTask):
    """Twelve examples and three queries; some have no finite loss at one checkpoint, or at all."""

    always = False

    def __init__(self, numbers=tuple(range(COUNT)), infinite=(), broken=()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.inputs = torch.randn(COUNT + QUERIES, 3)
        self.labels = torch.arange(COUNT + QUERIES) % 3
        self.numbers, self.infinite, self.broken = list(numbers), infinite, broken
        self.items = Items(self.inputs, self.labels, self.numbers)
        self.weight = None

    def build_model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, model, batch):
        outputs = model(batch[0])
        if any(bool((batch[0] == self.inputs[one]).all(1).any()) for one in self.broken):
            raise ValueError("broken")
        here = self.always or model[0].weight[0, 0].item() == self.weight
        for number in self.infinite if here else ():
            outputs = outputs + torch.where(batch[0][:, :1] == self.inputs[number, 0], torch.nan, 0)
        return outputs

    def train_examples(self):
        return self.items

    def query_examples(self):
        return Items(self.inputs, self.labels, range(COUNT, COUNT + QUERIES))

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in self.numbers]})

    def query_table(self):
        return pl.DataFrame({"example_id": [f"q{i}" for i in range(QUERIES)]})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    task, saved = Blobs(), []
    model = task.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.inputs[:COUNT]), task.labels[:COUNT]).backward()
        optimizer.step()
        if step in STEPS:
            saved.append(
                {
                    "step": step,
                    "model_state_dict": {k: v.clone() for k, v in model.state_dict().items()},
                    "optimizer_state_dict": optimizer.state_dict(),
                }
            )
    CheckpointsDataset(path=str(folder)).save(saved)
    return folder, [one["model_state_dict"]["0.weight"][0, 0].item() for one in saved]


@pytest.fixture
def prepare(checkpoints, tmp_path):
    """Return what sets an audit up."""
    folder, weights = checkpoints

    def prepare(
        task,
        *,
        share=0.2,
        method="source",
        cache="cache",
        batch_size=3,
        sample=None,
        at="memory",
        unit_seconds=10.0,
        segments=2,
    ):
        parameters = {
            "task": {"class": "a.Task", "set_aside": share},
            "attribution": {
                "method": method,
                "device": "cpu",
                "curvature_examples": sample,
                "projection_dimension": 8,
                "tolerance": 0,
            },
            "segments": {"count": segments},
        }
        attribution = AttributionParameters.model_validate(parameters["attribution"])
        found = CheckpointsDataset(path=str(folder)).load()
        task.items.raises, raises = (), task.items.raises  # not before the ingest is over
        if share:
            vars(task).setdefault("set_aside", {})
        tables = ingest_checkpoints(found, task, SegmentParameters(count=segments), attribution)
        _, manifest, _, training, queries, *_ = tables
        # Others than these visit the last alone, or the means of weights.
        task.items.raises = raises
        task.weight = weights[1 if method in ("source", "scaled_source") else 2]
        made_of = MadeOf.of(parameters, data=str(task.train_table()), checkpoints="", code="")
        identity = made_of.digest_for("gradient_extraction")
        return set_up_audit(
            Ingested(
                task,
                found,
                manifest,
                training,
                queries,
                data="",
                identity=identity,
                made_of=made_of,
            ),
            GradientCacheDataset(path=str(tmp_path / cache)).load(),
            GradientParameters(cache=at, batch_size=batch_size),
            attribution,
            LaunchParameters(unit_seconds=unit_seconds),
            specification=TaskParameters.model_validate(parameters["task"]),
        )

    return prepare


def audit(setup, at="memory"):
    """Return attribution_scores, self_influence and example_signals."""
    signals, query_signals, *_ = extract_gradients(
        setup, GradientParameters(cache=at, batch_size=3)
    )
    signals = ExampleSignals.validate(signals.collect())
    curvature = fit_curvature(setup, query_signals)[0]
    scores, _, own, *_ = score_tables(setup, curvature)
    return scores, own, signals


def assert_same(found, expected):
    """Compare the others' scores, and see that those set aside have none."""
    names = [f"e{i}" for i in KEPT]
    whole, own, signals = found
    assert whole["example_id"].to_list() == [f"e{i}" for i in range(COUNT)]
    assert own["example_id"].to_list() == names
    assert set(signals["example_id"]) == set(names)
    scores = {name: torch.tensor(row) for name, row in whole.iter_rows()}
    others = {name: torch.tensor(row) for name, row in expected[0].iter_rows()}
    assert not scores["e4"].any()
    assert not scores["e7"].any()
    size = max(float(row.norm()) for row in others.values())
    for name in names:
        assert float((scores[name] - others[name]).norm()) <= 1e-5 * size
    difference = (own["self_influence"] - expected[1]["self_influence"]).abs().max()
    assert difference <= 1e-5 * expected[1]["self_influence"].abs().max()


@pytest.mark.parametrize(
    ("method", "batch_size", "at", "sample"),
    [
        ("source", 3, "memory", None),
        ("source", 1, "recompute", None),
        ("source", 5, "disk", 6),
        ("scaled_source", 5, "recompute", None),
        ("fast_source", 1, "memory", 6),
        ("influence", 3, "disk", None),
        ("trak", 1, "recompute", None),
        ("representation_similarity", 3, "memory", None),
    ],
)
def test_the_others_have_the_scores_that_they_have_without(prepare, method, batch_size, at, sample):
    task = Blobs(infinite=(4,))
    settings = {"method": method, "batch_size": batch_size, "at": at, "sample": sample}
    setup = prepare(task, **settings)
    task.items.raises = (7,)
    expected = audit(prepare(Blobs(KEPT), cache="other", **settings), at)
    assert_same(audit(setup, at), expected)


@pytest.mark.parametrize("fault", ["infinite", "broken"])
@pytest.mark.parametrize("segments", [2, "auto"])
def test_no_trial_of_a_run_ends_with_one(prepare, fault, segments):
    """The first of all, at every point, and what is tried beside it."""
    gone = (0, 1)
    kept = [i for i in range(COUNT) if i not in gone]
    task = Blobs(**{fault: gone})
    task.always = True
    setup = prepare(task, batch_size="auto", at="recompute", segments=segments)
    own = audit(setup, "recompute")[1]
    assert own["example_id"].to_list() == [f"e{i}" for i in kept]
    settings = {"batch_size": setup.grid.batch_size, "at": "recompute", "segments": 2}
    if segments == 2:
        expected = audit(prepare(Blobs(kept), cache="other", **settings), "recompute")[1]
        ratio = own["self_influence"] / expected["self_influence"]
        assert float((ratio - 1).abs().max()) < 1e-4
    del task.set_aside
    with pytest.raises(InputError, match="first examples"):
        prepare(task, share=0, cache="strict")


def test_only_the_ranges_that_have_them_are_done_again(prepare):
    task = Blobs(infinite=(4,))
    setup = prepare(task, batch_size=2, at="recompute", unit_seconds=1e-9)
    task.items.raises = (7,)
    assert len(setup.grid.ranges(COUNT)) == COUNT // 2
    setup.engine.passes = Passes()
    extract(setup)
    # At the first point 10, and 6 when 7 is looked for, when it is left out, and anew; at the
    # second 11, and 5 when 4 is left out, and anew; the first point's 10 once more; the third's 10.
    met = setup.engine.passes.forward - QUERIES * len(STEPS)
    assert met == 46
    expected = audit(prepare(Blobs(KEPT), cache="other", batch_size=2, at="recompute"), "recompute")
    assert_same(audit(setup, "recompute"), expected)


def test_what_a_killed_run_did_with_them_is_no_other_audit_s(prepare):
    """Each of two audits of the same passes learns for itself what cannot be used."""
    settings = {"batch_size": 2, "at": "recompute", "unit_seconds": 1e-9}
    expected = extract(prepare(Blobs(infinite=(4,)), segments=1, cache="other", **settings))
    for after in (10, 11, 14):  # in the unit that has it, and behind it
        cut = {"cache": str(after), **settings}
        setup = prepare(Blobs(infinite=(4,)), **cut)
        setup.team.ledger = Killed(setup.team.ledger.root, after)
        with pytest.raises(KeyboardInterrupt):
            extract(setup)
        found = extract(prepare(Blobs(infinite=(4,)), segments=1, **cut))
        assert_frame_equal(found.signals.collect(), expected.signals.collect())
        for point, layers in expected.covariances.items():
            for layer, sums in layers.items():
                for name, tensor in sums.tensors().items():
                    assert torch.equal(found.covariances[point][layer].tensors()[name], tensor)


def test_they_are_named_and_later_runs_know_them(prepare, caplog):
    task = Blobs(infinite=(4,))
    setup = prepare(task)
    task.items.raises = (7,)
    found = audit(setup)
    first, second = list_set_aside(setup)
    assert (first["side"], first["example_id"], first["index"]) == ("train", "e7", 7)
    assert "disk on fire" in first["reason"]
    assert first["checkpoint_id"] == "step_000010"
    assert (second["example_id"], second["checkpoint_id"]) == ("e4", "step_000020")
    assert "NaN or infinite" in second["reason"]
    assert "1 example set aside that cannot be used (task.set_aside): 'e7'" in caplog.text
    caplog.clear()
    # In another process, at any stage.
    again = prepare(task)
    assert list(again.set_aside.numbers) == [4, 7]
    assert_same(audit(again), found)
    assert "set aside" not in caplog.text
    for name in ("source_scoring", "ekfac_fitting"):
        assert name in again.engine.timings.seconds


def test_one_that_fails_first_in_fitting_is_left_out_there(prepare):
    task = Blobs(infinite=(7,))
    setup = prepare(task, at="recompute")
    extract(setup)
    task.items.raises = (4,)
    found = fit(setup).curvature
    expected = fit(prepare(Blobs(KEPT), cache="other")).curvature
    for one, other in zip(found, expected, strict=True):
        for name in other:
            torch.testing.assert_close(one[name].eigenvalues, other[name].eigenvalues)
    assert_same(audit(prepare(task), "recompute"), audit(prepare(Blobs(KEPT), cache="other")))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_more_than_the_share_are_refused_as_the_first_would_be(prepare, share):
    setup = prepare(Blobs(infinite=(4, 7)), share=share)
    with pytest.raises(
        InputError,
        match=rf"^Example 'e{7 if share else 4}' .* NaN .* step_000020.*"
        rf"Of 12 training examples {2 if share else 1} cannot .* task.set_aside is {share:g}",
    ):
        audit(setup)


def test_a_run_that_allows_less_than_the_one_before_is_refused(prepare):
    audit(prepare(Blobs(infinite=(4, 7))))
    with pytest.raises(InputError, match=r"^Example 'e4' .* 2 cannot be used so far; .* 0\.1"):
        prepare(Blobs(infinite=(4, 7)), share=0.1)


def test_a_query_is_never_set_aside(prepare):
    with pytest.raises(InputError, match=r"^Example 'q1' \(index 1\) has a NaN .* as a query"):
        audit(prepare(Blobs(infinite=(COUNT + 1,)), share=0.9))


def test_what_cannot_be_read_counts_and_is_listed_beside_them(prepare):
    task = Blobs(infinite=(7,))
    task.items.raises = (2,)
    view = without_unusable(task, 0.2)
    with pytest.raises(InputError, match="Of 12 training examples 2 cannot"):
        audit(prepare(view, share=0.15, cache="less"))
    setup = prepare(view, share=0.2)
    audit(setup)
    found = [
        (one["example_id"], one["index"], one["checkpoint_id"]) for one in list_set_aside(setup)
    ]
    assert found == [("e2", 2, None), ("e7", 7, "step_000020")]


def test_nothing_is_trained_on_them(prepare, monkeypatch):
    class StoppedError(Exception):
        pass

    def stop(*given, **others):
        jobs = of_plan(*given, **others)
        raise StoppedError([(job.group, job.removed.tolist()) for job in jobs])

    setup = prepare(Blobs(infinite=(4, 7)))
    audit(setup)
    of_plan = Job.of_plan
    monkeypatch.setattr(Job, "of_plan", stop)
    with pytest.raises(StoppedError) as stopped:
        retrain_plan(
            pl.DataFrame({"group": ["all", "some"], "removed": [[], [2, 7, 9]]}),
            setup.inputs,
            TaskParameters.model_validate({"class": f"{__name__}.Blobs", "set_aside": 0.2}),
            None,
            setup.cache,
            LaunchParameters(),
            VerificationParameters(seeds=1),
            stage="verification",
        )
    assert stopped.value.args[0] == [("all", [4, 7]), ("some", [2, 4, 7, 9])]
