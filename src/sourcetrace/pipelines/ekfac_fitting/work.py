"""The units of fitting: eigenbases of some layers of a segment, squares of a range, eigenvalues.

A range's squares are of a group of layers at all points of the segment. Where there are several
ranges, they are added in their order and dropped; where there is one, it has the eigenvalues.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path

from torch import Tensor

from sourcetrace.core.curvature.blocks import (
    CUBES_OF_EIGENVECTORS,
    CurvatureBlock,
    SegmentCurvature,
)
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.curvature_scale import curvature_scales
from sourcetrace.core.methods.fit import LayerBasis, bases, eigenvalues, squares
from sourcetrace.core.methods.memory_needs import sides
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import PlannedSegment
from sourcetrace.datasets.tensor_file import LayersOfFile, LazyLayers, TensorFile
from sourcetrace.files import digest_of
from sourcetrace.pipelines.ekfac_fitting.preconditioner import optimizer_part, roots_of
from sourcetrace.pipelines.gradient_extraction.extracted import Extracted
from sourcetrace.pipelines.gradient_extraction.work import extracted
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.units import Work, do, do_summed, passes_parts, until_settled
from sourcetrace.work.unit import Unit

_STAGE = "ekfac_fitting"

_BASES, _SQUARES = "bases.safetensors", "squares.safetensors"
_EIGENVALUES, _SCALES = "eigenvalues.safetensors", "scales.json"

_CUBES = 2**38
"""Multiplications of a unit of eigendecompositions, unless one layer has more."""


@dataclass(frozen=True)
class Fitted:
    """The curvature of an audit.

    Attributes:
        curvature: Of every segment, read by the layer.
        scales: Layer -> its factor, of every segment; none where the method scales nothing.
        unscaled: The curvature before it is scaled.
    """

    curvature: Sequence[SegmentCurvature]
    scales: Sequence[Mapping[str, float]]
    unscaled: Sequence[SegmentCurvature]


def fit(setup: AuditSetup) -> Fitted:
    """Do what is missing of the curvature of every segment, and return it.

    None is returned where the method needs none.
    """
    if not setup.plan.uses_curvature:
        return Fitted([], [], [])
    return until_settled(setup, lambda: _fitted(setup.curvature, extracted(setup)))


def _fitted(setup: AuditSetup, passed: Extracted) -> Fitted:
    ledger = setup.team.ledger
    segments = [_Segment(setup, passed.at(one.points), one) for one in setup.plan.segments]
    found = {unit: work for one in segments for unit, work in one.bases.items()}
    do(setup, found, "Decomposing covariances")
    sums = [own for one in segments for own in one.groups]
    do_summed(setup, sums, "Fitting segments", "Adding squares")
    units = [*found, *(own.unit for own in sums)]
    unscaled = [one.curvature for one in segments]
    scales: list[dict[str, float]] = []
    if METHODS[setup.attribution.method].scales_curvature:
        groups = digest_of([len(one) for one in setup.needs.fitting.groups])
        units.append(setup.unit(_STAGE, "scales", reads=units, groups=groups))
        do(setup, {units[-1]: partial(_scale, setup, unscaled)}, "Scaling curvature")
        scales = json.loads((ledger.folder(units[-1]) / _SCALES).read_text(encoding="utf-8"))
    setup.team.prune(units)
    if setup.team.rank == 0:
        for unit in units:  # so that a damaged one is found here
            ledger.folder(unit)
    scaled = [
        LazyLayers(blocks, partial(_scaled, blocks, factors))
        for blocks, factors in zip(unscaled, scales, strict=bool(scales))
    ]
    return Fitted(scaled or unscaled, scales, unscaled)


def _scale(setup: AuditSetup, unscaled: Sequence[SegmentCurvature], folder: Path) -> None:
    groups = setup.needs.fitting.groups
    found = curvature_scales(setup.engine, setup.plan, unscaled, setup.queries, groups)
    (folder / _SCALES).write_text(json.dumps(found), encoding="utf-8")


def _scaled(blocks: SegmentCurvature, factors: Mapping[str, float], name: str) -> CurvatureBlock:
    return blocks[name].scaled(factors[name])


@dataclass(frozen=True)
class _Segment:
    """What is fitted of a segment."""

    setup: AuditSetup
    extracted: Extracted
    planned: PlannedSegment

    @cached_property
    def optimizer(self) -> str:
        """What decides P̄^½."""
        return optimizer_part(self.setup, self.planned)

    @cached_property
    def bases(self) -> Work:
        """What decomposes its layers' covariances."""
        reads = [one for point in self.planned.points for one in self.extracted.sums[point.id]]
        return {
            self.unit(f"bases/{own[0].name}", own, reads, cost=sum(map(_cubes, own))): partial(
                self._decompose, own
            )
            for group in self.setup.needs.fitting.groups
            for own in _dealt(group)
        }

    @cached_property
    def groups(self) -> "list[_Squares]":
        """Its sums of squares, by groups of layers."""
        return [_Squares(self, group) for group in self.setup.needs.fitting.groups]

    @cached_property
    def basis(self) -> Mapping[str, LayerBasis]:
        """The bases by layer, read when they are asked for."""
        folders = map(self.setup.team.ledger.folder, self.bases)
        return LazyLayers.joined(
            LayersOfFile.by_prefix(one / _BASES, LayerBasis)["bases"] for one in folders
        )

    @property
    def curvature(self) -> SegmentCurvature:
        """The blocks by layer, read when they are asked for."""
        layers = {layer.name: own for own in self.groups for layer in own.group}
        device = self.setup.engine.device

        def block(name: str) -> CurvatureBlock:
            return self.basis[name].block(layers[name].eigenvalues(name)).to(device)

        return LazyLayers(layers, block)

    def unit(
        self,
        name: str,
        layers: Sequence[Layer],
        reads: Sequence[Unit],
        block: Block | None = None,
        cost: float = 1.0,
    ) -> Unit:
        """Return a unit of some layers, whose passes are of some examples; None for all."""
        setup, planned = self.setup, self.planned
        whole = Block(0, len(setup.engine.training))
        return setup.unit(
            _STAGE,
            f"{planned.mean_point.id}/{name}",
            reads=reads,
            cost=cost,
            optimizer=self.optimizer,
            **passes_parts(setup, planned.points, block or whole, [layers]),
        )

    def _decompose(self, layers: Sequence[Layer], folder: Path) -> None:
        setup, engine = self.setup, self.setup.engine
        roots = roots_of(setup, self.planned, layers)
        with products_in(setup.attribution.precision.curvature, engine.device):
            found = bases(engine.of_layers(layers), self.planned, self.extracted.covariances, roots)
        tensors = {
            f"bases/{name}/{part}": one
            for name, basis in found.items()
            for part, one in basis.tensors().items()
        }
        TensorFile(folder / _BASES).write(tensors)


@dataclass(frozen=True)
class _Squares:
    """The sums of squares of a group of layers, and the eigenvalues that they come to.

    Attributes:
        segment: Whose they are.
        group: The layers.
    """

    segment: _Segment
    group: tuple[Layer, ...]

    @cached_property
    def parts(self) -> Work:
        """What does its ranges, in their order; of one range the eigenvalues."""
        segment, setup = self.segment, self.segment.setup
        name, reads = f"squares/{self.group[0].name}", list(segment.bases)
        ranges = setup.grid.ranges(len(setup.engine.training))
        needed = [one for one in ranges if self._visits(one)] or ranges[:1]
        if len(needed) == 1:
            return {segment.unit(name, self.group, reads): partial(self._square, needed[0], True)}
        return {
            segment.unit(
                f"{name}/{one.start:09d}-{one.stop:09d}", self.group, reads, one, len(one)
            ): partial(self._square, one, False)
            for one in needed
        }

    @cached_property
    def unit(self) -> Unit:
        """What has the eigenvalues."""
        first, *others = self.parts
        if not others:
            return first
        return self.segment.unit(f"eigenvalues/{self.group[0].name}", self.group, list(self.parts))

    def join(self, folder: Path) -> None:
        """Add the ranges' squares."""
        files = [self._file(one, _SQUARES) for one in self.parts]
        self._write(
            folder,
            {
                layer.name: reduce(add, (file.read([layer.name])[layer.name] for file in files))
                for layer in self.group
            },
        )

    def eigenvalues(self, layer: str) -> Tensor:
        """Return those of a layer."""
        return self._file(self.unit, _EIGENVALUES).read([layer])[layer]

    def _visits(self, examples: Block) -> list[tuple[EvaluationPoint, Block]]:
        return [
            (point, block)
            for point in self.segment.planned.points
            for block in self.segment.setup.grid.blocks(examples)
            if len(point.rows(block))
        ]

    def _square(self, examples: Block, alone: bool, folder: Path) -> None:
        setup, basis = self.segment.setup, self.segment.basis
        engine = setup.engine.of_layers(self.group)
        fitted = {layer.name: basis[layer.name].to(engine.device) for layer in self.group}
        with products_in(setup.attribution.precision.curvature, engine.device):
            sums = squares(engine, fitted, self._visits(examples))
        if alone:
            self._write(folder, sums)
        else:
            TensorFile(folder / _SQUARES).write(sums)

    def _write(self, folder: Path, sums: Mapping[str, Tensor]) -> None:
        values = eigenvalues(self.segment.setup.engine, self.segment.planned, sums)
        TensorFile(folder / _EIGENVALUES).write(values)

    def _file(self, unit: Unit, name: str) -> TensorFile:
        return TensorFile(self.segment.setup.team.ledger.folder(unit) / name)


def _dealt(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Yield layers whose covariances a unit decomposes."""
    taken: list[Layer] = []
    for layer in layers:
        if taken and sum(map(_cubes, (*taken, layer))) > _CUBES:
            yield tuple(taken)
            taken = []
        taken.append(layer)
    yield tuple(taken)


def _cubes(layer: Layer) -> int:
    return layer.groups * CUBES_OF_EIGENVECTORS * sum(side**3 for side in sides(layer))
