"""Parameters left out by name: of modules, of shared weights, and of patterns that match none."""

import pytest
import torch
from torch import nn

from sourcetrace.core.model.examples import Examples
from sourcetrace.core.training.optimizer_settings import ParameterSettings
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError
from sourcetrace.parameters import AttributionParameters, LayerParameters
from sourcetrace.pipelines.shared.coverage import coverage_of, left_out_by_name
from sourcetrace.tasks import TaskBase


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.block = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.block(self.embedding(tokens)))


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*"], [], set()),
        (["*"], ["output"], {"embedding.weight", "output.weight"}),
        (["block"], [], {"embedding.weight", "output.weight"}),
        (["block", "embedding"], ["*.bias"], {"block.0.bias", "block.2.bias"}),
        (["*"], ["block.?.weight"], {"block.0.weight", "block.2.weight"}),
    ],
)
def test_patterns_are_of_parameters_and_modules_and_exclude_wins(include, exclude, expected):
    assert left_out_by_name(Tied(), LayerParameters(include=include, exclude=exclude)) == expected


def test_a_pattern_that_matches_nothing_is_refused():
    message = r"attribution.layers.exclude: 'blok' matches none .*embedding.weight.*Correct the"
    with pytest.raises(InputError, match=message):
        left_out_by_name(Tied(), LayerParameters(exclude=["blok"]))


def test_what_is_left_out_is_named_in_the_coverage():
    class Task(TaskBase):
        def collate(self, items):
            return [torch.stack(items)]

    model, device = Tied(), torch.device("cpu")
    items = Examples(list(torch.randint(5, (9, 4))), [str(i) for i in range(9)], Task().collate)
    alike = dict.fromkeys(dict(model.named_parameters()), ParameterSettings(1.0, 0.0))
    segment = Segment(1, "training", 1.0, 0.0, ("a",), settings=alike)
    chosen = AttributionParameters(layers={"exclude": ["output", "block.2.bias"]})
    found = coverage_of(Task(), model, items, device, [segment], attribution=chosen)
    assert [layer.name for layer in found.layers] == ["block.0", "block.2.weight"]
    assert {one.name: one.reason for one in found.unattributed} == {
        "embedding.weight": "left out by attribution.layers",
        "block.2.bias": "left out by attribution.layers",
    }
