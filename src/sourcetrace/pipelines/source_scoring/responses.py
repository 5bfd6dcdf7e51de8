"""The queries' responses to a group of layers: made once, whoever scores by them, and checked.

A unit prepares the queries of a member of the plan for a layer, or for all of them where a method
takes them together. Whether low-rank sums are near enough is decided by the scores of all layers: a
unit measures it, and what is too far off is made again, as longer sums, by other units.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.passes import Passes
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.preparation import Prepared, QueryPreparation, ScoreSettings
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.low_rank_responses import LayerResponse
from sourcetrace.core.responses.score_check import ScoreCheck, settle
from sourcetrace.datasets.tensor_file import LayersOfFile, tensors_digest
from sourcetrace.files import digest_of
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.units import Work, do
from sourcetrace.pipelines.source_scoring.preparation import Preparation
from sourcetrace.work.unit import Unit

logger = logging.getLogger(__name__)

_STAGE = "source_scoring"

_TENSORS, _SAID = "responses.safetensors", "preparation"

_FIXED = "fixed"

_Made = Mapping[Unit, Sequence[Layer]]
"""Unit -> the layers that it prepares the queries for."""


def preparation_of(
    setup: AuditSetup, queries: Examples, layers: Sequence[Layer]
) -> QueryPreparation:
    """Return what prepares queries, the audit's or others, for the scores by some layers."""
    attribution, count = setup.attribution, len(setup.plan.segments)
    return QueryPreparation(
        attribution.method,
        setup.engine.of_layers(layers),
        queries,
        ScoreSettings(
            solve=SolveSettings(**attribution.astra.model_dump()),
            projection_dimension=attribution.projection_dimension,
            tolerance=attribution.tolerance,
            precision=attribution.precision.scores,
        ),
        report=lambda segment, iteration, residual: logger.info(
            "ASTRA segment %d of %d, iteration %d, residual %.2g",
            segment,
            count,
            iteration,
            residual,
        ),
    )


def fitted_of(
    curvature: Sequence[SegmentCurvature | None], layers: Sequence[Layer], device: torch.device
) -> list[SegmentCurvature | None]:
    """Return some layers' curvature of every segment, read and on a device."""
    return [
        None if segment is None else {one.name: segment[one.name].to(device) for one in layers}
        for segment in curvature
    ]


@dataclass(frozen=True)
class GroupResponses:
    """The queries' responses to a group of layers.

    Attributes:
        setup: Of the audit.
        curvature: Of every segment; None where the method needs none.
        layers: The group.
        number: Its place among the groups.
        units: What has them, as far as they were asked for.
    """

    setup: AuditSetup
    curvature: Sequence[SegmentCurvature | None]
    layers: Sequence[Layer]
    number: int
    units: list[Unit] = field(default_factory=list, init=False)

    def prepared(self) -> list[tuple[Prepared, ScoreCheck]]:
        """Read what every member has, and how far its scores are off."""
        return [(self._read(made), check) for made, check in self.settled]

    @cached_property
    def preparation(self) -> Preparation:
        """How the queries were prepared."""
        said = [self._said(unit) for made, _ in self.settled for unit in made]
        passes = [one.passes for one in said]
        return Preparation(
            [check for _, check in self.settled if check.choices],
            [solve for one in said for solve in one.solves],
            Passes(sum(one.forward for one in passes), sum(one.backward for one in passes)),
        )

    @cached_property
    def settled(self) -> Sequence[tuple[_Made, ScoreCheck]]:
        """The units of every member, done whoever did them, and how far its scores are off."""
        # One for all units of this process: it keeps the queries' gradients.
        preparing = preparation_of(self.setup, self.setup.queries, self.layers)
        tolerance = preparing.settings.tolerance
        places = range(len(self.setup.plan.members))
        return [settle(tolerance, partial(self._attempt, preparing, one)) for one in places]

    def _attempt(
        self, preparing: QueryPreparation, place: int, aim: float
    ) -> tuple[_Made, ScoreCheck]:
        """Do the units of a member for an error that is aimed at."""
        member, curvature = self.setup.plan.by_member(self.curvature)[place]

        def prepare(layers: Sequence[Layer], folder: Path) -> dict[str, Any]:
            preparing.engine.passes = Passes()  # those of this unit
            fitted = fitted_of(curvature, layers, preparing.engine.device)
            names = [one.name for one in layers]
            found = preparing.of(member, fitted, aim=aim, layers=names)
            kept = {f"{number:06d}": one for number, one in enumerate(found.segments)}
            if found.fixed is not None:
                kept[_FIXED] = {_FIXED: LayerResponse(found.fixed)}
            LayersOfFile.write(folder / _TENSORS, kept)
            check = ScoreCheck(0.0, 0.0, found.choices)
            return {_SAID: Preparation([check], found.solves, preparing.engine.passes).to_json()}

        def check(_: Path) -> dict[str, Any]:
            found = preparing.check(member, self._read(made))
            return {_SAID: Preparation([found], [], Passes()).to_json()}

        parts, made = self._parts(preparing.scoring, member), {}
        alone = preparing.scoring == "filters"
        for layers in [[one] for one in self.layers] if alone else [self.layers]:
            fitted = [one[layer.name] for one in curvature if one for layer in layers]
            unit = self.setup.unit(
                _STAGE,
                f"g{self.number}/responses/{place}/{layers[0].name}",
                reads=(),
                cost=sum(one.size for one in layers),
                **parts,
                aim=repr(aim),
                curvature=digest_of([tensors_digest(one.tensors()) for one in fitted]),
                layers=digest_of([(one.name, one.shape) for one in self.layers]),
            )
            made[unit] = layers
        self._do({unit: partial(prepare, own) for unit, own in made.items()}, "Preparing queries")
        checking = self.setup.unit(_STAGE, f"g{self.number}/check/{place}", reads=list(made))
        self._do({checking: check}, "Checking responses")
        return made, self._said(checking).checks[0]

    def _do(self, work: Work, description: str) -> None:
        self.units.extend(work)
        do(self.setup, work, description)

    def _parts(self, scoring: str, member: EnsembleMember) -> dict[str, str]:
        """Return digests of what decides a member's responses, in place of all that an audit has.

        Of the training data filters know the curvature and N_stage; solves and projections take
        examples, and know all of them.
        """
        if scoring in ("exact solves", "projections"):
            return {"examples": self.setup.contents.all_labelled}
        files = dict(self.setup.inputs.manifest.select("checkpoint_id", "sha256").iter_rows())
        segments = [(one.segment, one.count) for one in member.segments]
        return {
            "examples": "",
            "checkpoints": digest_of([files[one] for one in member.final.checkpoints]),
            "segments": digest_of(segments),
            "set_aside": "",
        }

    def _read(self, made: _Made) -> Prepared:
        device = self.setup.engine.device
        folders = map(self.setup.team.ledger.folder, made)
        files = [LayersOfFile.by_prefix(one / _TENSORS, LayerResponse) for one in folders]
        fixed: Mapping[str, LayerResponse] = files[0].pop(_FIXED, {})
        said = [self._said(unit) for unit in made]
        return Prepared(
            [
                {
                    layer.name: file[number][layer.name].to(device)
                    for layers, file in zip(made.values(), files, strict=True)
                    for layer in layers
                }
                for number in sorted(files[0])
            ],
            next((one.to(device).tensors()["rows"] for one in fixed.values()), None),
            tuple(chain(*(one.checks[0].choices for one in said))),
            said[0].solves,
        )

    def _said(self, unit: Unit) -> Preparation:
        ledger = self.setup.team.ledger
        ledger.folder(unit)  # which another process may have found damaged
        return Preparation.from_json(ledger.facts(unit)[_SAID])
