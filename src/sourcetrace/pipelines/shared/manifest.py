"""Optimiser settings as rows of the checkpoint manifest, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.segments import CheckpointRecord


def group_rows(
    groups: Sequence[ParameterGroup], step_masses: Sequence[float]
) -> list[dict[str, object]]:
    """Return parameter groups as the manifest holds them."""
    return [
        {
            "parameters": list(group.parameters),
            "learning_rate": group.learning_rate,
            "momentum": group.momentum,
            "dampening": group.dampening,
            "weight_decay": group.weight_decay,
            "step_mass": mass,
        }
        for group, mass in zip(groups, step_masses, strict=True)
    ]


def place_rows(places: Mapping[int, Sequence[str]]) -> list[dict[str, object]]:
    """Return the places in an optimiser's state as the manifest holds them."""
    return [
        {"place": place, "parameter": name} for place, names in places.items() for name in names
    ]


def record_of(row: Mapping[str, Any]) -> CheckpointRecord:
    """Rebuild a checkpoint's record from its row of the manifest."""
    settings = ("learning_rate", "momentum", "dampening", "weight_decay")
    return CheckpointRecord(
        id=row["checkpoint_id"],
        step=row["step"],
        stage=row["stage"],
        learning_rate=row["learning_rate"],
        momentum=row["momentum"],
        weight_decay=row["weight_decay"],
        optimizer=row["optimizer"],
        run=row["run"],
        groups=tuple(
            ParameterGroup(
                **{key: group[key] for key in settings}, parameters=tuple(group["parameters"])
            )
            for group in row["parameter_groups"]
        ),
    )
