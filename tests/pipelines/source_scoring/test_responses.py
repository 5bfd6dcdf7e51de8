"""Responses made by units against those of one process that makes them at once."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.core.methods.preparation import QueryPreparation
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.responses import score_check
from sourcetrace.pipelines.source_scoring.responses import GroupResponses
from sourcetrace.pipelines.source_scoring.work import scorer_of
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import Team
from tests.pipelines.test_training import Tiny, fitted, inputs_of, train


class Wide(Tiny):
    """Tiny's examples, seen by a network whose filters are short sums."""

    def __init__(self):
        super().__init__()
        self.inputs = torch.cat([self.inputs] * 16, 1)

    def build_model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return nn.Sequential(nn.Linear(48, 40), nn.Tanh(), nn.Linear(40, 3))

    def train_examples(self):
        return TensorDataset(self.inputs[:6], self.labels[:6])


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Trained twice, an ensemble's members."""
    folder = tmp_path_factory.mktemp("wide")
    task, runs = Wide(), folder / "runs"
    for name, rate in (("a", 0.1), ("b", 0.2)):
        train(runs / name, lambda model, rate=rate: torch.optim.SGD(model.parameters(), lr=rate),
              task=task)  # fmt: skip
    inputs = inputs_of(folder, runs, task=task, count=2)
    setup, (curvature, *_) = fitted(inputs)
    return setup, curvature


def made(setup, curvature, root):
    team = Team(Ledger(root))
    none = [None] * len(setup.plan.segments)
    layers = setup.engine.coverage.layers
    return GroupResponses(replace(setup, team=team), curvature or none, layers, 0)


def scorers_of(responses):
    """Return the scorer that prepares all at once, and that by what units have prepared."""
    setup = responses.setup
    given = (setup, responses.curvature, setup.queries, responses.layers)
    return scorer_of(*given), scorer_of(*given, responses.prepared())


def scores(setup, scorer):
    found = [scorer.scores(block) for block in setup.engine.blocks()]
    return torch.cat([one.shares for one in found], 2), [one.self_influence for one in found]


@pytest.mark.parametrize("first_aim", [1.2, 300.0])
def test_units_make_what_one_process_does_at_once(wide, tmp_path, first_aim, monkeypatch):
    setup, curvature = wide
    monkeypatch.setattr(score_check, "_FIRST_AIM", first_aim)
    responses = made(setup, curvature, tmp_path)
    whole, scorer = scorers_of(responses)
    torch.testing.assert_close(scores(setup, scorer), scores(setup, whole), rtol=0, atol=0)
    assert [one.choices for one in scorer.checks] == [one.choices for one in whole.checks]
    assert any(choice.terms for one in scorer.checks for choice in one.choices)
    assert responses.preparation.checks == scorer.checks
    tries = len(responses.units) // (2 * (2 + 1))  # two members' two layers, and their check
    assert (tries > 1) == (first_aim > 2)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_s_are_read_as_they_were_made(tmp_path, method):
    train(tmp_path / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    setup, (curvature, *_) = fitted(inputs_of(tmp_path, tmp_path / "run", method=method, count=2))
    responses = made(setup, curvature, tmp_path / "units")
    whole, scorer = scorers_of(responses)
    torch.testing.assert_close(scores(setup, scorer), scores(setup, whole), rtol=0, atol=0)
    assert len(scorer.solves) == len(whole.solves)


def test_responses_outlive_training_data_that_change_nothing_of_theirs(wide, tmp_path, monkeypatch):
    setup, curvature = wide

    def audited(curvature=curvature, **parts):
        known = {"data": "these", "checkpoints": "c", "segments": "s", "scores": "m"} | parts
        identity = SimpleNamespace(parts_for=lambda _: known)
        own = replace(setup, inputs=replace(setup.inputs, made_of=identity))
        return made(own, curvature, tmp_path).settled

    audited()
    monkeypatch.setattr(QueryPreparation, "of", None)
    audited(data="relabelled")  # which are in the check alone
    for other in ({"scores": "another tolerance"}, {"code": "newer"}):
        with pytest.raises(TypeError, match="not callable"):
            audited(**other)
    stronger = [{name: one.scaled(2.0) for name, one in own.items()} for own in curvature]
    with pytest.raises(TypeError, match="not callable"):
        audited(curvature=stronger)
