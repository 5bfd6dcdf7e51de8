"""The pipelines of this project by name, each made when it is asked for."""

from collections import UserDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.audit import (
    JUDGEMENT,
    STAGES,
    create_audit,
    create_stage,
    create_verification,
)

_FOLDERS = {
    **STAGES,
    "gate": JUDGEMENT,
    "demo_training": ("demo_training",),
    "demo_evaluation": ("demo_evaluation", "page"),
}


class _Pipelines(UserDict[str, Any]):
    """Pipelines by name. Kedro asks for those of a run alone, and for all of them to list them."""

    def __getitem__(self, name: str) -> Pipeline:
        pipeline: Pipeline = super().__getitem__(name)()
        return pipeline


def register_pipelines() -> Mapping[str, Pipeline]:
    """Return every pipeline by name."""
    return _Pipelines(
        {name: partial(create_stage, *folders) for name, folders in _FOLDERS.items()}
        | {
            "audit": create_audit,
            "verification": create_verification,
            "__default__": lambda: (
                create_audit() + create_stage("demo_training", "demo_evaluation")
            ),
        }
    )
