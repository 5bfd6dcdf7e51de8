"""Queries explained behind an audit: whose scores, of what they are made, and what is refused."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.datasets import CheckpointsDataset, GradientCacheDataset
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.explanation.nodes import explain_queries
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.source_scoring.nodes import describe_measurement
from sourcetrace.pipelines.source_scoring.queries import describe_queries
from sourcetrace.reporting.explanation import Asked
from sourcetrace.tasks import ClassificationTask
from tests.pipelines.test_training import score_tables
from tests.tiny import state_of

WORDS = ["good ", "bad ", "film ", "very "]
LENGTH, TRAINING = 5, 8


class Reader(nn.Module):
    """Reads tokens one by one, and the mean of what it read."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.each = nn.Linear(3, 3)
        self.whole = nn.Linear(3, 2)

    def forward(self, tokens):
        return self.whole(self.each(self.words(tokens)).tanh().mean(1))


class Bare(ClassificationTask):
    """Eight training examples and three queries."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.tokens = torch.randint(4, (TRAINING + 3, LENGTH))
        self.labels = torch.arange(TRAINING + 3) % 2

    def build_model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return Reader().double()

    def train_examples(self):
        return TensorDataset(self.tokens[:TRAINING], self.labels[:TRAINING])

    def query_examples(self):
        return TensorDataset(self.tokens[TRAINING:], self.labels[TRAINING:])

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in range(TRAINING)], "source": "web"})

    def query_table(self):
        names = ["first", "second", "third"]
        return pl.DataFrame({"example_id": names, "label": self.labels[TRAINING:]})


class Whole(Bare):
    """The same, with what explains it token by token, and makes queries."""

    def tokens_of(self, item):
        return [WORDS[token] for token in item[0].tolist()]

    def queries_of(self, source):
        tokens = torch.tensor([WORDS.index(f"{word} ") for word in source["text"].split()])
        items = [(tokens, torch.tensor(int(source["label"])))]
        return items, pl.DataFrame({"example_id": ["typed"], "label": [source["label"]]})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, task = tmp_path_factory.mktemp("trained"), Bare()
    model = task.build_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 31):
        optimizer.zero_grad()
        logits = model(task.tokens[:TRAINING])
        nn.functional.cross_entropy(logits, task.labels[:TRAINING]).backward()
        optimizer.step()
        if step % 10 == 0:
            torch.save(state_of(step, model, optimizer), folder / f"step_{step}.pt")
    return folder


@pytest.fixture
def audit(checkpoints, tmp_path):
    """Return a function that audits, and one that explains behind it, with the scores."""

    def run(task, method="source"):
        attribution = AttributionParameters(
            method=method, device="cpu", projection_dimension=8, tolerance=0, strongest_examples=2
        )
        gradients = GradientParameters(cache="memory", batch_size=3)
        found = CheckpointsDataset(path=str(checkpoints)).load()
        segments = SegmentParameters(count=2)
        tables = ingest_checkpoints(found, task, segments, attribution)
        _, manifest, _, training, queries, *_ = tables
        setup = set_up_audit(
            Ingested(task, found, manifest, training, queries, data="", identity="these"),
            GradientCacheDataset(path=str(tmp_path / "cache")).load(),
            gradients,
            attribution,
        )
        _, signals, *_ = extract_gradients(setup, gradients)
        curvature = fit_curvature(setup, signals)[0]
        scores, *_, contributions = score_tables(setup, curvature)
        folder = tmp_path / "scores"
        folder.mkdir()
        scores[:5].write_parquet(folder / "part-000000.parquet")
        scores[5:].write_parquet(folder / "part-000001.parquet")
        strongest, shares, _ = describe_queries(setup, contributions)

        def explain(*, layers_at_once=None, **asked):
            layers = setup.engine.coverage.layers
            size = layers_at_once or len(layers)
            groups = tuple(layers[at : at + size] for at in range(0, len(layers), size))
            scoring = replace(setup.needs.scoring, groups=groups)
            needs = replace(setup.needs, scoring=scoring)
            grouped = replace(setup, needs=needs)
            return explain_queries(
                grouped,
                curvature,
                ScoreFiles(folder),
                strongest,
                describe_measurement(setup, pl.DataFrame()),
                signals,
                shares,
                Asked(**asked),
            )

        return scores["scores"].to_numpy(), explain

    return run


@pytest.mark.parametrize("method", ["source", "influence", "trak"])
def test_the_strongest_come_first_and_parts_add_up(audit, method):
    scores, explain = audit(Whole(), method)
    found = explain(queries=("third", "first"), strongest=3)
    assert [one.example_id for one in found.queries] == ["third", "first"]
    assert (found.measured, found.higher_is_better) == ("margin", True)
    assert found.training_examples == TRAINING
    for query, column in zip(found.queries, (2, 0), strict=True):
        own = scores[:, column]
        # A removal that lowers the margin is that of a helper.
        expected = [f"e{i}" for i in own.argsort(kind="stable") if own[i] < 0][:3]
        assert [one.example_id for one in query.helpers] == expected
        expected = [f"e{i}" for i in (-own).argsort(kind="stable") if own[i] > 0][:3]
        assert [one.example_id for one in query.harmers] == expected
        for one in (*query.helpers, *query.harmers):
            whole = pytest.approx(one.score, rel=1e-5)
            assert one.score == own[int(one.example_id[1])]
            assert len(one.tokens) == LENGTH
            assert len(one.segments) == len(found.segments)
            assert sum(one.segments) == whole
            # The head reads no one token.
            assert one.elsewhere.keys() == {"whole"}
            assert sum(one.elsewhere.values()) + sum(token.score for token in one.tokens) == whole
            assert one.text == "".join(token.text for token in one.tokens)


def test_segments_shares_are_of_what_they_give_to_all_scores(audit):
    scores, explain = audit(Bare())
    (found,) = explain(queries=("second",), strongest=TRAINING, tokens=True).queries
    parts = [one.segments for one in (*found.helpers, *found.harmers)]
    sizes = [sum(abs(part[segment]) for part in parts) for segment in (0, 1)]
    expected = [size / sum(sizes) for size in sizes]
    assert list(found.shares["segment"].values()) == pytest.approx(expected, rel=1e-5)
    assert sum(found.shares["stage"].values()) == pytest.approx(1)
    helping = scores[:, 1][scores[:, 1] < 0].sum()
    assert found.without_helpers == pytest.approx(found.measurement + helping)
    assert not found.helpers[0].tokens


def test_a_query_that_was_typed_is_scored_as_if_it_had_been_audited(audit):
    task = Whole()
    _, explain = audit(task)
    (audited,) = explain(queries=("second",)).queries
    (typed,) = explain(source={"text": audited.text, "label": audited.label}).queries
    assert typed.example_id == "typed"
    assert not typed.shares
    assert typed.measurement == pytest.approx(audited.measurement)
    for one, other in zip(typed.helpers, audited.helpers, strict=True):
        assert one.example_id == other.example_id
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert one.tokens[0].score == pytest.approx(other.tokens[0].score)


def test_layers_by_the_group_give_what_all_of_them_give(audit):
    _, explain = audit(Whole())
    typed = {"text": "good film", "label": "0"}
    for asked in ({"queries": ("first",)}, {"source": typed}):
        (together,) = explain(**asked).queries
        (apart,) = explain(layers_at_once=2, **asked).queries
        for one, other in zip(together.helpers, apart.helpers, strict=True):
            assert one.example_id == other.example_id
            assert one.score == pytest.approx(other.score, rel=1e-5)
            assert one.elsewhere == pytest.approx(other.elsewhere)
            for token, again in zip(one.tokens, other.tokens, strict=True):
                assert token.score == pytest.approx(again.score)


def test_what_a_method_or_a_task_does_not_have_is_left_out_or_refused(audit):
    _, explain = audit(Bare(), "representation_similarity")
    (query,) = explain(queries=("first",)).queries
    assert query.helpers
    assert not query.helpers[0].segments
    assert not query.helpers[0].tokens
    assert query.helpers[0].text == "web"
    with pytest.raises(InputError, match=r"has no queries_of\(source\)"):
        explain(source={"text": "good"})


def test_unknown_queries_are_told_with_the_nearest(audit):
    _, explain = audit(Bare(), "gradient_similarity")
    with pytest.raises(InputError, match=r"no query 'thrid' among the 3 .* nearest are 'third'\."):
        explain(queries=("first", "thrid"))
    with pytest.raises(InputError, match="the first are 'first', 'second', 'third'"):
        explain(queries=("0",))
