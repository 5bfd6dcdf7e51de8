"""A convolution's inputs as pixels, in place of the patches that its kernel meets.

Kernel positions k and l contribute Σ_p x_{p+k} x_{p+l}ᵀ to the covariance of the patches. Where the
stride is 1, all k and l that are equally far apart meet the same pairs of pixels, except at the
borders. For every distance these pairs are multiplied once, cut where some kernel position ends,
and in the end each block of the covariance adds up the cuts that it meets: 13 products for the 45
of a 3 × 3 kernel, exactly, and no patch is copied.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, ...]
"""A number a dimension."""

_Box = tuple[tuple[int, int], ...]
"""For every dimension, the first pixel and the one after the last."""

Pair = tuple[int, int]
"""Numbers of two kernel positions."""

_FEWEST_CHANNELS = 16
"""With fewer the products are too small to pay."""

_NARROW = 256
"""Patches up to this width are multiplied in no time."""

_MOST_PLACES = 49
"""Kernel positions; blocks of the result are as many squared, and some cuts each."""


@dataclass(frozen=True)
class PatchLayout:
    """How a convolution of stride 1 meets pixels.

    Attributes:
        channels: C_in / groups.
        space: Size of the input.
        offsets: By dimension, how far each kernel position is from the output position; outside
            of the space everything is 0.
        outputs: Output positions of every dimension.
        ones: Whether D_in has a last column of ones.
    """

    channels: int
    space: Place
    offsets: tuple[tuple[int, ...], ...]
    outputs: Place
    ones: bool = False

    @property
    def places(self) -> tuple[Place, ...]:
        """Offsets of the kernel's positions, in the order of D_in."""
        return tuple(itertools.product(*self.offsets))

    @property
    def positions(self) -> int:
        """Output positions of an example."""
        return math.prod(self.outputs)

    @property
    def width(self) -> int:
        """D_in."""
        return len(self.places) * self.channels + self.ones

    @property
    def cuts(self) -> Mapping[Place, Mapping[_Box, Sequence[Pair]]]:
        """Distance -> cut -> the pairs of kernel positions, by number, that meet all of it."""
        return _cuts(self)

    @property
    def pays(self) -> bool:
        """Whether the covariance of the patches takes more than twice the multiplications."""
        if self.channels < _FEWEST_CHANNELS or self.width <= _NARROW:
            return False
        if len(self.places) > _MOST_PLACES:
            return False
        pairs = sum(
            math.prod(high - low for low, high in cut)
            for cuts in self.cuts.values()
            for cut in cuts
        )
        return 2 * pairs < self.positions * len(self.places) ** 2

    def met(self, place: Place, distance: Place | None = None) -> _Box:
        """Return the pixels that a kernel position meets while one at a distance is inside, too."""
        away_by = distance or (0,) * len(place)
        bounds = (
            (max(here, 0, -away), min(count + here, size, size - away))
            for here, away, count, size in zip(
                place, away_by, self.outputs, self.space, strict=True
            )
        )
        # Of a small image a dilated kernel's outer positions meet nothing.
        return tuple((low, max(low, high)) for low, high in bounds)

    def expanded(self, sums: Tensor) -> Tensor:
        """Return Σ a aᵀ, [groups, D_in, D_in], of results of `Pixels.summed` added up."""
        places, channels = len(self.places), self.channels
        total = sums.new_zeros(len(sums), self.width, self.width)
        patches = total[:, : places * channels, : places * channels]
        blocks = torch.unflatten(
            torch.unflatten(patches, 2, (places, channels)), 1, (places, channels)
        )
        held = [pairs for cuts in self.cuts.values() for pairs in cuts.values()]
        products, rest = sums.tensor_split([len(held) * channels**2], dim=1)
        products = torch.unflatten(products, 1, (len(held), channels, channels))
        for number, pairs in enumerate(held):
            for first, second in pairs:
                blocks[:, first, :, second] += products[:, number]
                if first != second:
                    blocks[:, second, :, first] += products[:, number].mT
        if self.ones:
            total[:, -1] = total[:, :, -1] = rest
        return total


@dataclass(frozen=True)
class Pixels:
    """What a convolution read.

    Attributes:
        values: [N, groups, *space, C_in / groups].
        layout: How its kernel meets them.
    """

    values: Tensor
    layout: PatchLayout

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, examples: Tensor) -> "Pixels":
        return replace(self, values=self.values[examples])

    @property
    def rows(self) -> int:
        """Output positions of all examples."""
        return len(self) * self.layout.positions

    @property
    def width(self) -> int:
        """D_in."""
        return self.layout.width

    def joined(self, others: Sequence[Any]) -> "Pixels":
        """Return the pixels of these examples and of more."""
        return replace(self, values=torch.cat([one.values for one in (self, *others)]))

    def owned(self) -> "Pixels":
        """Return pixels that nobody else writes to or holds."""
        return replace(self, values=self.values.clone())

    def halves(self) -> list["Pixels"]:
        """Return two halves of the examples."""
        return [replace(self, values=one) for one in self.values.tensor_split(2)]

    def summed(self) -> Tensor:
        """Return what the layout makes Σ over examples and output positions of a aᵀ of.

        Products of cuts, then, for a column of ones, sums at the kernel positions, and the rows:
        [groups, …].
        """
        parts = [
            (self._rows(cut).mT @ self._rows(_moved(cut, distance))).flatten(1)
            for distance, cuts in self.layout.cuts.items()
            for cut in cuts
        ]
        if self.layout.ones:
            parts += [self._rows(self.layout.met(place)).sum(1) for place in self.layout.places]
            parts.append(parts[-1].new_full((len(parts[-1]), 1), self.rows))
        return torch.cat(parts, dim=1)

    def _rows(self, box: _Box) -> Tensor:
        """Return the pixels of a box, [groups, rows, C]."""
        part = self.values[(slice(None), slice(None), *itertools.starmap(slice, box))]
        return part.transpose(0, 1).flatten(1, -2)


@lru_cache(maxsize=256)
def _cuts(layout: PatchLayout) -> dict[Place, dict[_Box, list[Pair]]]:
    """Return distance -> cut -> the pairs of kernel positions, by number, that meet all of it."""
    found: dict[Place, dict[Pair, _Box]] = {}
    numbered = enumerate(layout.places)
    for (first, one), (second, other) in itertools.combinations_with_replacement(numbered, 2):
        distance = tuple(there - here for here, there in zip(one, other, strict=True))
        met = layout.met(one, distance)
        if all(low < high for low, high in met):
            found.setdefault(distance, {})[first, second] = met
    return {distance: _cut(boxes) for distance, boxes in found.items()}


def _cut(boxes: Mapping[Pair, _Box]) -> dict[_Box, list[Pair]]:
    """Cut boxes wherever one of them begins or ends, and say which of them hold each cut."""
    bounds = [
        sorted({bound for one in along for bound in one})
        for along in zip(*boxes.values(), strict=True)
    ]
    cuts = itertools.product(*(itertools.pairwise(one) for one in bounds))
    held = {cut: [pair for pair, box in boxes.items() if _holds(box, cut)] for cut in cuts}
    return {cut: pairs for cut, pairs in held.items() if pairs}


def _holds(box: _Box, cut: _Box) -> bool:
    sides = zip(box, cut, strict=True)
    return all(low <= first and last <= high for (low, high), (first, last) in sides)


def _moved(box: _Box, distance: Place) -> _Box:
    return tuple((low + away, high + away) for (low, high), away in zip(box, distance, strict=True))
