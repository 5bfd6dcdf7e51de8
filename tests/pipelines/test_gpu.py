"""Audits on a GPU's stand-in (`tests.stand_in_gpu`) against the same on the CPU."""

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

from sourcetrace.core.machine import timing
from sourcetrace.core.methods.token_scores import token_scores
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.pipelines.source_scoring.work import score, scorer_of
from sourcetrace.work.ledger import Ledger
from tests.pipelines.test_changed_data import Audits, Changed, Unusable
from tests.pipelines.test_training import adamw, train
from tests.stand_in_gpu import stand_in

TOKENS, WORDS, WIDTH = 3, 5, 4

UNORDERED = {"aten::scatter_add", "aten::cumsum"}
"""The gradient of a loss's `gather`, of one number a row, and sums along short rows."""


class Reader(nn.Module):
    """Scores words by a convolution over the words before."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.near = nn.Conv1d(WIDTH, WIDTH, TOKENS)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.output = nn.Linear(WIDTH, WORDS, bias=False)
        self.output.weight = self.words.weight

    def forward(self, tokens):
        return self.output(self.norm(self.near(self.words(tokens).mT))[..., 0].relu())


class Texts(Changed):
    """The same labels behind words."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.inputs = torch.randint(WORDS, (len(self.inputs), TOKENS))

    def build_model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return Reader()


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """Audits by task: of vectors trained by SGD, of words by AdamW."""
    words = tmp_path_factory.mktemp("words")
    train(words / "run", adamw, task=Texts())
    return {Unusable: Audits(tmp_path_factory.mktemp("vectors")), Texts: Audits(words)}


def tables(setup):
    """Run the stages; return all their tables, and what their tokens score."""
    fitted, found, scored = fit(setup), extract(setup), score(setup)
    rows = {name: getattr(found, name).collect() for name in ("signals", "sketches")}
    for name, files in zip(TABLES, zip(*scored.parts, strict=True), strict=False):
        rows[name] = pl.read_parquet([one.path for one in files])
    curvature = fitted.curvature or [None] * len(setup.plan.segments)
    scorer = scorer_of(setup, curvature, setup.queries, setup.engine.coverage.layers)
    tokens = token_scores(scorer.responses, setup.engine, {7: TOKENS})
    return rows, [one.shares for one in tokens.values()]


@pytest.mark.parametrize(
    ("task", "method", "options"),
    [
        (Unusable, "scaled_source", {"groups": 2}),
        (Texts, "trak", {"projection_dimension": 8, "precision": {"passes": "tf32"}}),
    ],
)
def test_an_audit_is_that_of_the_cpu(audits, tmp_path, monkeypatch, task, method, options):
    monkeypatch.setattr(timing, "_LARGEST", 1)  # the CPU would take seconds for what a GPU does
    given = {"method": method, **options}
    expected = tables(audits[task].set_up(task(), Ledger(tmp_path / "cpu"), **given))
    with stand_in(monkeypatch) as gpu:
        setup = audits[task].set_up(task(), Ledger(tmp_path / "gpu"), device="cuda", **given)
        found = tables(setup)
    assert setup.engine.device.type == "cuda"
    assert gpu.refused == []
    assert gpu.unordered.keys() <= UNORDERED
    for name, rows in expected[0].items():
        assert_frame_equal(found[0][name], rows, rel_tol=1e-5, abs_tol=1e-7)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-7)
