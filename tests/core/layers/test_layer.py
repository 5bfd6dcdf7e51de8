"""A layer's layout of its parameters, there and back."""

import pytest
import torch
from torch import nn

from sourcetrace.core.layers.discovery import find_layers


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Conv2d(4, 6, 2, groups=2), torch.zeros(1, 4, 3, 3)),
        (nn.Embedding(5, 3), torch.zeros(1, 2, dtype=torch.long)),
        (nn.LayerNorm([2, 3]), torch.zeros(1, 2, 3)),
        (nn.Linear(3, 2, bias=False), torch.zeros(1, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_of_a_matrix_undo_its_layout(model, inputs):
    (layer,) = find_layers(model, lambda: model(inputs)).layers
    generator = torch.Generator().manual_seed(1)
    blocks = [
        {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}
        for _ in range(2)
    ]
    matrices = torch.stack([layer.weight_matrix(block) for block in blocks])
    found = layer.parameter_tensors(matrices, blocks[0])
    assert found.keys() == blocks[0].keys()
    for name, values in found.items():
        assert torch.equal(values, torch.stack([block[name] for block in blocks]))
