"""What a module offers for attribution: a weight, perhaps a bias, and the site of their use."""

from dataclasses import dataclass

from torch import nn

from sourcetrace.core.layers.layer import Site


@dataclass(frozen=True, eq=False)
class Slot:
    """A weight and a bias used together at one site.

    Attributes:
        name: Of the layer they would make.
        site: Where they are used.
        weight: The weight.
        groups, outputs, inputs: The weight's blocks, without the ones' column.
        transposed: Whether the weight is stored as [D_in, D_out].
        bias: The bias, or None.
        bias_groups: Groups of the whole bias, more than `groups` where slots share it.
    """

    name: str
    site: Site
    weight: nn.Parameter
    groups: int
    outputs: int
    inputs: int
    transposed: bool
    bias: nn.Parameter | None
    bias_groups: int

    @property
    def frame(self) -> tuple[int, int, int, bool]:
        """How the weight is laid out; slots that share a weight must agree on it."""
        return (self.groups, self.outputs, self.inputs, self.transposed)


@dataclass(frozen=True)
class Offer:
    """The slots of one module, or the reason why a parameter of its own has none."""

    slots: tuple[Slot, ...] = ()
    reason: str = ""
