"""The pipelines of this project by name, each made when it is asked for."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.audit import (
    create_audit,
    create_judgement,
    create_stage,
    create_stages,
    create_verification,
)


class _Pipelines(Mapping[str, Pipeline]):
    """Pipelines by name. Kedro asks for those of a run alone, and for all of them to list them."""

    def __init__(self, makers: Mapping[str, Callable[[], Pipeline]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Pipeline:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def register_pipelines() -> Mapping[str, Pipeline]:
    """Return every pipeline by name."""
    folders = (
        "checkpoint_ingest",
        "gradient_extraction",
        "ekfac_fitting",
        "source_scoring",
        "cleaning_report",
        "demo_training",
        "demo_evaluation",
    )
    return _Pipelines(
        {name: partial(create_stage, name) for name in folders}
        | {
            "gate": create_judgement,
            "audit": create_audit,
            "verification": create_verification,
            "__default__": _demo,
        }
    )


def _demo() -> Pipeline:
    # The verdict is the last thing on the page, and nothing is left to write when it fails.
    return sum(
        (create_stage("demo_evaluation"), create_judgement(page="demo_cleaning_report")),
        start=sum(create_stages().values(), start=create_stage("demo_training")),
    )
