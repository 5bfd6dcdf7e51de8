"""Small networks: those on which scores are compared with another library's, and MLPs."""

from collections.abc import Sequence

from torch import nn

INPUTS = {"linear": (6,), "convolution": (2, 5, 5)}
"""Shape of an example, by the kind of network."""


def build_model(kind: str) -> nn.Module:
    """Return the network of a kind, one output an example, in float64."""
    if kind == "linear":
        layers: list[nn.Module] = [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(5, 1)).double()
    body = [nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 2, bias=False)]
    return nn.Sequential(*body, nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return an untrained multilayer perceptron of these widths, inputs and outputs included."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
