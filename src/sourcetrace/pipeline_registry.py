"""The pipelines of this project by name, each made when it is asked for."""

from collections.abc import Callable, Mapping
from functools import partial

from kedro.pipeline import Pipeline

from sourcetrace.lazy import LazyMapping
from sourcetrace.pipelines.audit import (
    JUDGEMENT,
    STAGES,
    create_audit,
    create_cleaning_test,
    create_decisions,
    create_explain,
    create_preflight,
    create_stage,
    create_stages,
    create_status,
    create_verification,
)

_FOLDERS = {
    **STAGES,
    "gate": JUDGEMENT,
    "demo_training": ("demo_training",),
    "demo_evaluation": ("demo_evaluation", "page"),
}


def register_pipelines() -> Mapping[str, Pipeline]:
    """Return every pipeline by name: Kedro asks for those of a run alone, or lists them all."""
    makers: dict[str, Callable[[], Pipeline]] = {
        **{name: partial(create_stage, *folders) for name, folders in _FOLDERS.items()},
        "audit": create_audit,
        "stages": create_stages,
        "apply_decisions": create_decisions,
        "verify_cleaning": create_cleaning_test,
        "preflight": create_preflight,
        "status": create_status,
        "explain": create_explain,
        "verification": create_verification,
        "__default__": lambda: create_audit() + create_stage("demo_training", "demo_evaluation"),
    }
    return LazyMapping(makers, lambda name: makers[name]())
