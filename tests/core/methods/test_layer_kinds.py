"""The whole core on a tiny model of the rarer kinds of layers."""

import pytest
import torch
from torch import Tensor, nn

from tests.core.methods.test_transformer import TOKENS, check_source, token_case
from tests.tiny import KeepsNothing, assert_close, attribute


class Scaled(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return 3 * super().forward(tokens)


class Normalised(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, values: Tensor) -> Tensor:
        return (1 + self.weight) * values * values.square().mean(-1, keepdim=True).rsqrt()


class Rare(nn.Module):
    """Classifies sequences of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = Scaled(TOKENS, 4, padding_idx=0)
        self.bag = nn.EmbeddingBag(TOKENS, 3, mode="max")
        self.up = nn.ConvTranspose1d(4, 4, 3, stride=2, groups=2)
        self.norm = nn.InstanceNorm1d(4, affine=True)
        self.slopes = nn.PReLU(4)
        self.scale = Normalised(4)
        self.pair = nn.Bilinear(4, 3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.slopes(self.norm(self.up(self.words(tokens).mT))).mean(-1)
        return self.pair(self.scale(hidden), self.bag(tokens))


@pytest.mark.parametrize("segments", [1, 2])
def test_source_equals_the_dense_oracle(segments):
    check_source(token_case(Rare), segments)


# What scales the curvature differentiates a pass twice.
@pytest.mark.parametrize("method", ["source", "scaled_source", "trak"])
def test_unchanged_by_batch_size_and_cache(method):
    first = attribute(token_case(Rare), method, batch_size=2)
    again = attribute(token_case(Rare), method, batch_size=5, cache=KeepsNothing())
    assert_close(again.scores, first.scores)
    assert_close(again.self_influence, first.self_influence)
