"""What a method evaluates: which weights, on which examples, filtered how.

Source takes gradients and curvature at every checkpoint of a segment and averages them;
Fast-Source takes them once, at the mean of the segment's weights; an influence function and
the similarities know the final checkpoint alone and treat all data as one stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sourcetrace.core.errors import InputError
from sourcetrace.core.filters import SegmentFilter, segment_filter
from sourcetrace.core.gradient_source import EvaluationPoint
from sourcetrace.core.layers import Layer
from sourcetrace.core.methods import Method
from sourcetrace.core.optimizer_settings import ParameterSettings
from sourcetrace.core.segments import Segment


@dataclass(frozen=True)
class PlannedSegment:
    """A segment with the points that stand for it.

    Attributes:
        segment: Step mass, stage and checkpoints.
        points: Where gradients and curvature are taken; their means count.
        filter: F_r and F_S.
        examples: Training examples of the stage, increasing, [N_stage].
        layer_filters: Layer -> its own F_r and F_S, where the optimiser's settings differ.
    """

    segment: Segment
    points: tuple[EvaluationPoint, ...]
    filter: SegmentFilter
    examples: Tensor
    layer_filters: Mapping[str, SegmentFilter] = field(default_factory=dict)

    def filter_of(self, layer: str) -> SegmentFilter:
        """Return F_r and F_S of a layer."""
        return self.layer_filters.get(layer, self.filter)


@dataclass(frozen=True)
class AttributionPlan:
    """Segments in the order of training, and the final weights, where queries are measured."""

    segments: tuple[PlannedSegment, ...]
    final: EvaluationPoint

    @property
    def points(self) -> tuple[EvaluationPoint, ...]:
        """Every point whose training gradients are needed, each once."""
        points = {p.id: p for segment in self.segments for p in segment.points}
        points.setdefault(self.final.id, self.final)
        return tuple(points.values())

    @property
    def uses_curvature(self) -> bool:
        """Whether any filter asks for eigenvalues."""
        return any(segment.filter.uses_curvature for segment in self.segments)


def make_plan(
    method: Method,
    segments: Sequence[Segment],
    stage_examples: Mapping[str, Tensor],
    *,
    examples: int,
    damping: float | None = None,
    layers: Sequence[Layer] = (),
) -> AttributionPlan:
    """Plan a method.

    Args:
        method: Name of the method.
        segments: As `partition` returned them.
        stage_examples: Stage -> numbers of its training examples, increasing.
        examples: Training examples in all.
        damping: λ of the influence function.
        layers: The attributed layers; needed where the segments have settings by parameter.

    Raises:
        InputError: If a stage of the checkpoints has no training example, or the optimiser's
            settings differ within a layer.
    """
    everything = torch.arange(examples)
    for segment in segments:
        if len(stage_examples.get(segment.stage, ())) == 0:
            raise InputError(
                f"Checkpoints {', '.join(segment.checkpoints)} belong to stage "
                f"{segment.stage!r}, but no training example does. The training table's 'stage' "
                f"column has: {', '.join(sorted(stage_examples)) or 'nothing'}."
            )
    last = segments[-1]
    final_id = last.checkpoints[-1]
    pooled = method not in ("source", "fast_source", "astra_source", "tracin")
    final_stage = everything if pooled else stage_examples[last.stage]
    final = EvaluationPoint(final_id, (final_id,), everything, final_stage)

    def point(checkpoints: tuple[str, ...], own: Tensor) -> EvaluationPoint:
        if checkpoints == (final_id,):
            return final
        return EvaluationPoint("+".join(checkpoints), checkpoints, own, own)

    planned = []
    for segment in [last] if pooled else segments:
        own = everything if pooled else stage_examples[segment.stage]
        if pooled:
            groups: list[tuple[str, ...]] = [(final_id,)]
        elif method == "fast_source":
            groups = [segment.checkpoints]
        else:
            groups = [(checkpoint,) for checkpoint in segment.checkpoints]
        planned.append(
            PlannedSegment(
                segment,
                tuple(point(group, own) for group in groups),
                segment_filter(
                    method,
                    step_mass=segment.step_mass,
                    weight_decay=segment.weight_decay,
                    damping=damping,
                    optimizer=segment.optimizer,
                ),
                own,
                {
                    layer.name: segment_filter(
                        method,
                        step_mass=settings.step_mass,
                        weight_decay=settings.weight_decay,
                        damping=damping,
                        optimizer=segment.optimizer,
                    )
                    for layer in ([] if pooled else layers)
                    if (settings := _layer_settings(segment, layer)) is not None
                },
            )
        )
    return AttributionPlan(tuple(planned), final)


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
