"""What a method evaluates: which weights, on which examples, filtered how.

Source takes gradients and curvature at every checkpoint of a segment and averages them;
Fast-Source takes them once, at the mean of the segment's weights; an influence function and
the similarities know the final checkpoint alone and treat all data as one stage.

Several training runs make an ensemble: each member has its own segments and final weights, and the
scores are the mean over the members.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TypeVar

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.examples import EvaluationPoint, draws_at
from sourcetrace.core.plan.filters import FilterSettings, SegmentFilter
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.training.optimizer_settings import ParameterSettings
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class PlannedSegment:
    """A segment with the points that stand for it.

    Attributes:
        segment: Step mass, stage and checkpoints.
        points: Where gradients and curvature are taken; their means count.
        filter: F_r and F_S.
        examples: Training examples of the stage, increasing, [N_stage].
        layer_filters: Layer -> its own F_r and F_S, where the optimiser's settings differ.
        stage_size: N_stage, where it is that of other data, whose curvature is taken.
    """

    segment: Segment
    points: tuple[EvaluationPoint, ...]
    filter: SegmentFilter
    examples: Tensor
    layer_filters: Mapping[str, SegmentFilter] = field(default_factory=dict)
    stage_size: int | None = None

    @property
    def count(self) -> int:
        """N_stage."""
        return len(self.examples) if self.stage_size is None else self.stage_size

    @property
    def mean_point(self) -> EvaluationPoint:
        """Where one point stands for all: the mean of their weights."""
        if len(self.points) == 1:
            return self.points[0]
        checkpoints = tuple(name for point in self.points for name in point.checkpoints)
        name = "+".join(one.id for one in self.points)
        return replace(self.points[0], id=name, checkpoints=checkpoints)

    def filter_of(self, layer: str) -> SegmentFilter:
        """Return F_r and F_S of a layer."""
        return self.layer_filters.get(layer, self.filter)


@dataclass(frozen=True)
class EnsembleMember:
    """Segments in the order of training, and the final weights, where queries are measured."""

    segments: tuple[PlannedSegment, ...]
    final: EvaluationPoint

    def layer_steps(
        self, name: str, curvatures: Sequence[SegmentCurvature | None]
    ) -> tuple[list[SegmentFilter], list[CurvatureBlock | None], list[int]]:
        """Return a layer's filters and curvature, and N_stage, segment by segment."""
        return (
            [segment.filter_of(name) for segment in self.segments],
            [None if fitted is None else fitted[name] for fitted in curvatures],
            [segment.count for segment in self.segments],
        )


@dataclass(frozen=True)
class AttributionPlan:
    """The members of an ensemble, one for an ordinary run; scores are the mean over them."""

    members: tuple[EnsembleMember, ...]

    @classmethod
    def of(
        cls,
        method: str,
        segments: Sequence[Segment],
        stage_examples: Mapping[str, Tensor],
        *,
        damping: float | None = None,
        layers: Sequence[Layer] = (),
        curvature_sample: Callable[[Tensor], Tensor] | None = None,
    ) -> "AttributionPlan":
        """Plan a method.

        Args:
            method: Name of the method.
            segments: As `partition` returned them; of several runs, one run after the other.
            stage_examples: Stage -> numbers of its training examples, increasing.
            damping: λ of the influence function.
            layers: The attributed layers; needed where the segments have settings by parameter.
            curvature_sample: Numbers of examples -> those of them whose curvature is taken; all,
                if not given.

        Raises:
            InputError: If a stage of the checkpoints has no training example, or the optimiser's
                settings differ within a layer.
        """
        for segment in segments:
            if len(stage_examples.get(segment.stage, ())) == 0:
                raise InputError(
                    f"Checkpoints {', '.join(segment.checkpoints)} belong to stage "
                    f"{segment.stage!r}, but no training example does. The training table's "
                    f"'stage' column has: {', '.join(sorted(stage_examples)) or 'nothing'}."
                )
        planner = _Planner(
            method,
            stage_examples,
            torch.unique(torch.cat(list(stage_examples.values()))),
            damping,
            layers,
            curvature_sample or _all,
        )
        runs = groupby(segments, key=lambda segment: segment.run)
        return cls(tuple(planner.member(list(own)) for _, own in runs))

    def sized_as(self, other: "AttributionPlan") -> "AttributionPlan":
        """Return the same with N_stage of a plan for other data."""

        def sized(member: EnsembleMember, others: Sequence[PlannedSegment]) -> EnsembleMember:
            pairs = zip(member.segments, others, strict=True)
            segments = tuple(replace(own, stage_size=one.count) for own, one in pairs)
            return replace(member, segments=segments)

        return AttributionPlan(tuple(sized(*one) for one in self.by_member(other.segments)))

    @property
    def segments(self) -> tuple[PlannedSegment, ...]:
        """The segments of all members, one member after the other."""
        return tuple(segment for member in self.members for segment in member.segments)

    @property
    def points(self) -> tuple[EvaluationPoint, ...]:
        """Every point whose training gradients are needed, each once."""
        points: dict[str, EvaluationPoint] = {}
        for member in self.members:
            points |= {p.id: p for segment in member.segments for p in segment.points}
            points.setdefault(member.final.id, member.final)
        return tuple(points.values())

    def by_member(self, values: Sequence[_Value]) -> list[tuple[EnsembleMember, Sequence[_Value]]]:
        """Give every member its share of `values`, one a segment."""
        left = iter(values)
        return [(member, list(islice(left, len(member.segments)))) for member in self.members]

    @property
    def uses_curvature(self) -> bool:
        """Whether any filter asks for eigenvalues."""
        return any(segment.filter.uses_curvature for segment in self.segments)


@dataclass(frozen=True)
class _Planner:
    """What the members of a plan have in common.

    Attributes:
        method: Name of the method.
        stage_examples: Stage -> numbers of its training examples.
        everything: Numbers of the training examples of all stages, increasing.
        damping: λ of the influence function.
        layers: The attributed layers.
        sample: Numbers of examples -> those of them that make up the curvature.
    """

    method: str
    stage_examples: Mapping[str, Tensor]
    everything: Tensor
    damping: float | None
    layers: Sequence[Layer]
    sample: Callable[[Tensor], Tensor]

    def member(self, segments: Sequence[Segment]) -> EnsembleMember:
        """Plan one run."""
        last = segments[-1]
        final_id = last.checkpoints[-1]
        evaluates = METHODS[self.method].evaluates
        pooled = evaluates == "final checkpoint"
        final_stage = self.everything if pooled else self.stage_examples[last.stage]
        steps = dict(
            one for own in segments for one in zip(own.checkpoints, own.steps, strict=False)
        )
        curved = self.sample(final_stage)
        final = _point(steps, (final_id,), self.everything, curved)
        if pooled:
            whole = PlannedSegment(last, (final,), self._filter(last, last), self.everything)
            return EnsembleMember((whole,), final)
        planned = []
        for segment in segments:
            own = self.stage_examples[segment.stage]
            curved = self.sample(own)
            groups: list[tuple[str, ...]] = [(checkpoint,) for checkpoint in segment.checkpoints]
            if evaluates == "mean weights":
                groups = [segment.checkpoints]
            points = tuple(
                final if group == (final_id,) else _point(steps, group, own, curved)
                for group in groups
            )
            filters = {
                layer.name: self._filter(settings, segment)
                for layer in self.layers
                if (settings := _layer_settings(segment, layer)) is not None
            }
            planned.append(
                PlannedSegment(segment, points, self._filter(segment, segment), own, filters)
            )
        return EnsembleMember(tuple(planned), final)

    def _filter(self, settings: Segment | ParameterSettings, segment: Segment) -> SegmentFilter:
        mass, decay = settings.step_mass, settings.weight_decay
        return METHODS[self.method].make_filter(
            FilterSettings(mass, decay, segment.optimizer, self.damping)
        )


def _all(examples: Tensor) -> Tensor:
    return examples


def _point(
    steps: Mapping[str, int],
    checkpoints: tuple[str, ...],
    examples: Tensor,
    curvature: Tensor,
) -> EvaluationPoint:
    draws = "+".join(draws_at(steps[name]) if name in steps else name for name in checkpoints)
    return EvaluationPoint("+".join(checkpoints), checkpoints, examples, curvature, draws)


def _layer_settings(segment: Segment, layer: Layer) -> ParameterSettings | None:
    """Return the settings of a layer's parameters; None where the segment has one for all."""
    if not segment.settings:
        return None
    # A parameter that the optimiser was not given in this segment does not move in it.
    untrained = ParameterSettings(0.0, 0.0)
    found = {name: segment.settings.get(name, untrained) for name in layer.parameters}
    if len(set(found.values())) > 1:
        described = "; ".join(
            f"{name}: step mass {one.step_mass:.4g}, weight decay {one.weight_decay:.4g}"
            for name, one in found.items()
        )
        raise InputError(
            f"{layer.name}: its parameters have different optimiser settings ({described}); "
            "expected the same ones. Put them into parameter groups with the same settings."
        )
    return next(iter(found.values()))
