"""Which parameters of a model are attributed; nothing is skipped in silence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sourcetrace.core.layers.layer import Layer


@dataclass(frozen=True)
class Unattributed:
    """A parameter that carries no attribution, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """The layers of a model, and the parameters that belong to none.

    Attributes:
        layers: Each parameter of a layer belongs to that one alone.
        unattributed: The other parameters.
        tied: An attributed parameter that has several names -> the others; its gradient is
            the sum over all its uses.
    """

    layers: tuple[Layer, ...]
    unattributed: tuple[Unattributed, ...]
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the model's parameters that carry attribution, 0 to 1."""
        attributed = sum(layer.size for layer in self.layers)
        total = attributed + sum(parameter.size for parameter in self.unattributed)
        return attributed / total if total else 0.0
