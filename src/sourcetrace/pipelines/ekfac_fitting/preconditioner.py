"""P̄^½ of an adaptive optimiser's segment, from what its checkpoints hold of the optimiser."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from torch import Tensor

from sourcetrace.core.curvature.preconditioner import mean_preconditioner
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import PlannedSegment
from sourcetrace.core.training.optimizer_settings import ADAPTIVE
from sourcetrace.files import digest_of
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup


def roots_of(
    setup: AuditSetup, planned: PlannedSegment, layers: Sequence[Layer] | None = None
) -> dict[str, Tensor]:
    """Return P̄^½ of a segment by layer; nothing where steps follow the gradient itself.

    Args:
        setup: Of the audit.
        planned: The segment.
        layers: Of these alone; None for all.
    """
    if not _is_preconditioned(setup, planned):
        return {}
    layers = setup.engine.coverage.layers if layers is None else layers
    wanted = {name for layer in layers for name in layer.parameters}
    rows = {row["checkpoint_id"]: row for row in setup.inputs.manifest.iter_rows(named=True)}
    found = [_denominators(setup, rows[name], wanted) for name in planned.segment.checkpoints]
    means = {
        layer.name: mean_preconditioner(layer, found, dtype=setup.engine.dtype) for layer in layers
    }
    return {name: root for name, root in means.items() if root is not None}


def optimizer_part(setup: AuditSetup, planned: PlannedSegment) -> str:
    """Return a digest of what decides P̄^½ of a segment; empty where there is none."""
    if not _is_preconditioned(setup, planned):
        return ""
    stated = setup.inputs.parts_for("checkpoint_ingest").get("segments")
    own = pl.col("checkpoint_id").is_in(planned.segment.checkpoints)
    rows = setup.inputs.manifest.filter(own)
    # The JSON beside a checkpoint may say Adam's beta2, eps and step.
    files = setup.inputs.checkpoints.digests(dict(rows.select("file", "sha256").iter_rows()))
    return digest_of([planned.segment.optimizer, stated, files, rows["state_places"].to_list()])


def _is_preconditioned(setup: AuditSetup, planned: PlannedSegment) -> bool:
    """Return whether a segment's curvature is seen through P̄^½."""
    follows = METHODS[setup.attribution.method].follows_optimizer
    return follows and planned.segment.optimizer in ADAPTIVE


def _denominators(setup: AuditSetup, row: Mapping[str, Any], wanted: set[str]) -> dict[str, Tensor]:
    names: dict[int, list[str]] = {}
    for one in row["state_places"]:
        names.setdefault(one["place"], []).append(one["parameter"])
    names = {place: own for place, own in names.items() if not wanted.isdisjoint(own)}
    return setup.inputs.checkpoints.denominators(row["file"], row["sha256"], names)
