"""A layer: a weight, a bias or both, its sites and calls of them, and what modules offer.

Layers part the attributed parameters: each belongs to one layer. A layer has several sites
where modules share its weight, and a site several calls where a module is used repeatedly;
the gradient is the sum over all of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sourcetrace.core.layers.kinds.pixels import Pixels
from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.errors import InputError

WITHOUT_GRADIENTS = (
    "ran without gradients, so that no gradient of the output can be asked for: inside "
    "torch.no_grad(), or in torch.utils.checkpoint with use_reentrant=True. Use "
    "use_reentrant=False, or freeze its parameters."
)
"""What to say of layers whose output has no gradient, behind their names."""


@dataclass(frozen=True)
class Site:
    """A place where a layer's weight meets inputs.

    Attributes:
        module: Name of the module that is called.
        kind: How its inputs and gradients are laid out.
        part: Which projection, where the module is attention or recurrent.
        first_group: The group of the layer at which the site's groups start.
        example_dimension: The dimension of the inputs that counts examples.
    """

    module: str
    kind: LayerType
    part: str = ""
    first_group: int = 0
    example_dimension: int = 0

    @property
    def key(self) -> str:
        """A unique name of what is recorded here."""
        return ".".join(name for name in (self.module, self.part) if name)


@dataclass(frozen=True)
class Layer:
    """The attributed parameters of one gradient, [groups, D_out, D_in].

    Attributes:
        name: The module's name in the model, or the parameter's where a module's weight and
            bias do not make one layer.
        sites: Where it meets inputs; none of a bare parameter, which is a bias by itself.
        groups: Number of independent blocks.
        outputs: D_out of a block.
        inputs: D_in of a block, the ones' column counted.
        weight: Name of the weight, or None for a layer of a bias alone.
        bias: Name of the bias in the last input column, or None.
        alone: Whether its gradients take a pass of every example alone, N = 1: its inputs do not
            say which example they belong to. All that it meets there are positions.
    """

    name: str
    sites: tuple[Site, ...]
    groups: int
    outputs: int
    inputs: int
    weight: str | None
    bias: str | None
    alone: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """[groups, D_out, D_in] of one gradient."""
        return (self.groups, self.outputs, self.inputs)

    @property
    def size(self) -> int:
        """Number of attributed parameters."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters it attributes, the weight first."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    @property
    def bare(self) -> bool:
        """Whether it is a parameter that no known kind of module shows."""
        return not self.sites

    @property
    def indexed(self) -> bool:
        """Whether all inputs are one-hot and given by their index."""
        return not self.bare and all(site.kind.indexed for site in self.sites)

    @property
    def partly_indexed(self) -> bool:
        """Whether an embedding and another module share the weight."""
        return any(site.kind.indexed for site in self.sites) and not self.indexed

    def inputs_of(self, module: nn.Module, values: Tensor, site: Site) -> Tensor:
        """Return one call's layer inputs, [N, groups, S, D_in], ones appended for a bias.

        Those of an indexed site are integers, [N, S].
        """
        positions = site.kind.positions(module, values.movedim(site.example_dimension, 0))
        if self.alone:
            positions = _of_one(positions)
        if site.kind.indexed:
            return positions
        if self.weight is None:
            positions = positions[..., :0]
        if self.bias is not None:
            positions = F.pad(positions, (0, 1), value=1.0)
        if positions.shape[-1] != self.inputs:
            raise InputError(
                f"{self.name}: the inputs have {positions.shape[-1]} features, the weight "
                f"expects {self.inputs}. Is the module called with another input elsewhere?"
            )
        return positions

    def pixels_of(self, module: nn.Module, values: Tensor, site: Site) -> Pixels | None:
        """Return one call's inputs as pixels, where the covariance is cheaper to take from them."""
        if site.kind.pixels is None or self.weight is None:
            return None
        pixels = site.kind.pixels(module, values.movedim(site.example_dimension, 0))
        if pixels is None or not pixels.layout.pays:
            return None
        layout = replace(pixels.layout, ones=self.bias is not None)
        return replace(pixels, values=pixels.values.contiguous(), layout=layout)

    def output_gradients_of(self, module: nn.Module, gradients: Tensor, site: Site) -> Tensor:
        """Return one call's output gradients, [N, groups, S, D_out]."""
        positions = site.kind.output_positions(module, gradients.movedim(site.example_dimension, 0))
        return _of_one(positions) if self.alone else positions

    def weight_matrix(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Lay out parameters (or gradients) named as in the model as [groups, D_out, D_in]."""
        columns = []
        if self.weight is not None:
            weight = tensors[self.weight]
            if self.sites[0].kind.channels_last:
                weight = weight.movedim(1, -1)
            if self.sites[0].kind.transposed:
                weight = weight.reshape(self.groups, -1, self.outputs).mT
            columns.append(weight.reshape(self.groups, self.outputs, -1))
        if self.bias is not None:
            columns.append(tensors[self.bias].reshape(self.groups, self.outputs, 1))
        return torch.cat(columns, dim=2)

    def parameter_tensors(self, matrix: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo `weight_matrix`: name -> [*, …] of a matrix [*, groups, D_out, D_in].

        Args:
            matrix: Values in the layer's layout, behind any leading dimensions.
            like: Tensors in the shapes of the parameters, by name.
        """
        leading = matrix.shape[:-3]
        tensors = {}
        if self.weight is not None:
            shape = like[self.weight].shape
            values = matrix if self.bias is None else matrix[..., :-1]
            if self.sites[0].kind.transposed:
                values = values.mT
            if self.sites[0].kind.channels_last:
                last = values.reshape(*leading, shape[0], *shape[2:], shape[1])
                tensors[self.weight] = last.movedim(-1, len(leading) + 1)
            else:
                tensors[self.weight] = values.reshape(*leading, *shape)
        if self.bias is not None:
            tensors[self.bias] = matrix[..., -1].reshape(*leading, *like[self.bias].shape)
        return tensors


def _of_one(positions: Tensor) -> Tensor:
    """Make positions of one example of what was laid out as several."""
    if positions.ndim == 2:  # noqa: PLR2004, indices [N, S]
        return positions.reshape(1, -1)
    return positions.transpose(0, 1).flatten(1, 2).unsqueeze(0)


@dataclass(frozen=True)
class Call:
    """One use of a site.

    Attributes:
        inputs: What came in, detached.
        version: Of the inputs then; another one now means a change in place.
        output: Where autograd can be asked for the output's gradient.
        output_shape: How that gradient is to be viewed.
        groups: The site's groups that were used, first and last plus one; None for all.
    """

    inputs: Tensor
    version: int
    output: GradientEdge
    output_shape: torch.Size
    groups: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        inputs: Tensor,
        output: Tensor,
        *,
        output_shape: torch.Size | None = None,
        groups: tuple[int, int] | None = None,
    ) -> "Call":
        """Return the call of a site.

        Raises:
            InputError: If it ran without gradients.
        """
        if not output.requires_grad:
            raise InputError(f"{name} {WITHOUT_GRADIENTS}")
        # The edge, not the tensor: an in-place activation would change the tensor's own.
        edge = get_gradient_edge(output)
        return cls(inputs.detach(), inputs._version, edge, output_shape or output.shape, groups)


Note = Callable[[str, Call], None]
"""Takes a site's key and a call of it."""


@dataclass(eq=False)
class Slot:
    """A weight and a bias used together at one site, or one of them.

    Attributes:
        site: Where they are used.
        weight: The weight, or None.
        groups, outputs, inputs: The weight's blocks, without the ones' column.
        bias: The bias, or None.
        bias_groups: Groups of the whole bias, more than `groups` where slots share it.
    """

    site: Site
    weight: nn.Parameter | None
    groups: int
    outputs: int
    inputs: int
    bias: nn.Parameter | None
    bias_groups: int

    @property
    def frame(self) -> tuple[int, int, int, bool]:
        """How the weight is laid out; slots that share a weight must agree on it."""
        transposed = self.site.kind.transposed
        if self.site.kind.indexed:  # an embedding's [D, V] is a linear output layer's [V, D]
            return (self.groups, self.inputs, self.outputs, not transposed)
        return (self.groups, self.outputs, self.inputs, transposed)


Offer = list[Slot] | str
"""The slots of one module, or the reason why a parameter of its own has none."""
