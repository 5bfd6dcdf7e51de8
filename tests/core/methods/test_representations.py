"""Representation similarity: cosines of the last layer's inputs."""

import pytest
import torch
from torch import nn

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.representations import representations
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.tiny import KeepsNothing, LossAsMeasurement, assert_close, attribute, tiny_case


def test_scores_are_minus_the_cosines_of_the_inputs_of_the_head():
    case = tiny_case()
    case.model.load_state_dict(case.states["c4"])
    body = nn.Sequential(case.model.first, nn.ReLU(), case.model.second, nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        train, queries = body(case.images), body(case.query_images)
    cosines = nn.functional.cosine_similarity(queries.unsqueeze(1), train.unsqueeze(0), dim=2)
    found = attribute(case, "representation_similarity")
    assert_close(found.scores[0, :-1], -cosines)
    assert_close(found.scores[0, -1], cosines.mean(0))


def test_a_loss_as_the_measurement_turns_the_sign():
    class LowerIsBetter(LossAsMeasurement):
        measurement_higher_is_better = False

    found = attribute(tiny_case(), "representation_similarity", task=LowerIsBetter())
    plain = attribute(tiny_case(), "representation_similarity")
    assert_close(found.scores[0, :-1], -plain.scores[0, :-1])
    assert_close(found.scores[0, -1], plain.scores[0, -1])


def test_a_last_layer_without_features_is_refused():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, tokens):
            return self.table(tokens).mean(1)

    model = Bag()
    task = ClassificationTask()
    tokens = torch.tensor([[0, 1], [2, 3]])
    examples = Examples(list(zip(tokens, [0, 1], strict=True)), ["a", "b"], task.collate)
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=find_layers(model, lambda: model(tokens)),
        training=examples,
        load_weights=lambda _: model.state_dict(),
        cache=KeepsNothing(),
        batch_size=2,
        seed=0,
    )
    everything = torch.arange(2)
    with pytest.raises(InputError, match="Choose another method"):
        representations(
            engine, examples, EvaluationPoint("c", ("c",), everything, everything), Block(0, 2)
        )
