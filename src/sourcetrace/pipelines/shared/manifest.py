"""What checkpoint_manifest keeps of a checkpoint's record, written and read back as a plan."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
import torch

from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.segments import CheckpointRecord, Segment
from sourcetrace.parameters import AttributionParameters

_RECORDED = ("run", "step", "stage", "optimizer", "learning_rate", "momentum", "weight_decay")
"""Of a checkpoint's record: what the manifest has under the same name."""

_RECORDED_OF_GROUP = ("learning_rate", "momentum", "dampening", "weight_decay")
"""Of a parameter group."""


def row_of(record: CheckpointRecord, masses: Sequence[float]) -> dict[str, Any]:
    """Return the columns of a record.

    Args:
        record: With named groups.
        masses: Step mass of each parameter group.
    """
    return {
        "checkpoint_id": record.id,
        **{name: getattr(record, name) for name in _RECORDED},
        "step_mass": masses[0],
        "parameter_groups": [
            {
                "parameters": list(group.parameters),
                **{name: getattr(group, name) for name in _RECORDED_OF_GROUP},
                "step_mass": mass,
            }
            for group, mass in zip(record.parameter_groups, masses, strict=True)
        ],
    }


def segments_of(checkpoint_manifest: pl.DataFrame) -> list[Segment]:
    """Rebuild the segments from the manifest."""
    return [
        Segment.of(
            int(str(number)),
            [_record_of(row) for row in rows.iter_rows(named=True)],
            [
                [group["step_mass"] for group in groups]
                for groups in rows["parameter_groups"].to_list()
            ],
        )
        for (number,), rows in checkpoint_manifest.group_by("segment", maintain_order=True)
    ]


def plan_of(
    segments: Sequence[Segment],
    train_table: pl.DataFrame,
    training: Examples,
    coverage: Coverage,
    attribution: AttributionParameters,
    set_aside: Sequence[int] = (),
) -> AttributionPlan:
    """Return what is evaluated for the parameters' method, without examples of these numbers."""
    count, seed = attribution.curvature_examples, attribution.seed
    sample = None
    if count is not None:
        sample = partial(training.drawn, count=count, seed=seed, purpose="curvature")
    return AttributionPlan.of(
        attribution.method,
        segments,
        stage_examples(train_table, set_aside),
        damping=attribution.damping,
        layers=coverage.layers,
        curvature_sample=sample,
    )


def stage_examples(
    train_table: pl.DataFrame, set_aside: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Return the numbers of the training examples of every stage, increasing, without some.

    An example of several stages is counted in each.
    """
    numbered = train_table.select("stage").with_row_index("number").explode("stage")
    numbered = numbered.filter(~pl.col("number").is_in(list(set_aside)))
    return {
        str(stage): rows["number"].cast(pl.Int64).to_torch()
        for (stage,), rows in numbered.group_by("stage", maintain_order=True)
    }


def _record_of(row: Mapping[str, Any]) -> CheckpointRecord:
    return CheckpointRecord(
        id=row["checkpoint_id"],
        groups=tuple(
            ParameterGroup(
                parameters=tuple(group["parameters"]),
                **{name: group[name] for name in _RECORDED_OF_GROUP},
            )
            for group in row["parameter_groups"]
        ),
        **{name: row[name] for name in _RECORDED},
    )
