"""A decoder of GPT-2's shape with random weights; torch alone."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder; the defaults are GPT-2 small's."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    positions: int = 1024


class _Block(nn.Module):
    """Causal attention, then two linear layers, each behind a normalisation and beside a skip."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before_attention = nn.LayerNorm(shape.width)
        self.queries_keys_values = nn.Linear(shape.width, 3 * shape.width)
        self.joined = nn.Linear(shape.width, shape.width)
        self.before_linear = nn.LayerNorm(shape.width)
        self.wide = nn.Linear(shape.width, 4 * shape.width)
        self.narrow = nn.Linear(4 * shape.width, shape.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return hidden states, [B, S, width]."""
        hidden = hidden + self.joined(self._attend(self.before_attention(hidden)))
        return hidden + self.narrow(F.gelu(self.wide(self.before_linear(hidden))))

    def _attend(self, hidden: Tensor) -> Tensor:
        parts = self.queries_keys_values(hidden).chunk(3, dim=-1)
        # [B, S, width] -> [B, heads, S, width / heads]
        queries, keys, values = (
            one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in parts
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return attended.transpose(1, 2).flatten(2)


class Decoder(nn.Module):
    """Tokens [B, S] to logits [B, S, vocabulary].

    The linear layers of the blocks take gradients; embeddings, normalisations and the output
    layer are frozen, as in published EK-FAC runs on language models.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.blocks = nn.Sequential(*(_Block(shape) for _ in range(shape.layers)))
        self.normalisation = nn.LayerNorm(shape.width)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        attributed = {
            id(parameter)
            for module in self.blocks.modules()
            if isinstance(module, nn.Linear)
            for parameter in module.parameters()
        }
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in attributed)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, [B, S, vocabulary]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.tokens(tokens) + self.positions(places)
        return self.output(self.normalisation(self.blocks(hidden)))
