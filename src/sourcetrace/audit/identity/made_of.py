"""One answer to what a result was made of, in parts that can be compared.

Who uses what:

- `datasets.audited` writes all parts beside every stored result and compares, when one is loaded,
  those that its stage depends on with what the parameters and the ingest say now;
- `pipelines.set_up.nodes` computes `data` and `checkpoints` again from the inputs themselves, and
  keeps gradients under `digest_for("gradient_extraction")`;
- `audit.identity.audit_key` makes the tag of a model version from the parts that decide the scores;
- `pipelines.verification` keeps retrainings under `retraining_part`.

What an audit came to is another question: `audit.comparison.snapshot` tells audits apart by the
digests of their scores.
"""

import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel

from sourcetrace import __version__
from sourcetrace.checkpoints.places.addresses import rates_file
from sourcetrace.errors import InputError
from sourcetrace.files import digest_of
from sourcetrace.parameters import (
    AttributionParameters,
    ReportParameters,
    SegmentParameters,
    TaskParameters,
)
from sourcetrace.validation import validated

_COMPUTING = (
    "checkpoints",
    "core",
    "datasets",
    "schemas",
    "tasks",
    "pipelines/set_up",
    "pipelines/shared",
    "pipelines/checkpoint_ingest",
    "pipelines/gradient_extraction",
    "pipelines/ekfac_fitting",
    "pipelines/source_scoring",
)
"""Folders of this package whose code decides the numbers, and how units of work write them."""

_GRADIENTS = ("method", "seed", "sampled_labels", "curvature_examples")
"""Of `attribution`: what decides gradients and curvature, besides their precisions."""

_INGEST = ("code", "task", "data", "checkpoints", "segments")
_STAGES: Final = {
    "checkpoint_ingest": _INGEST,
    "gradient_extraction": (*_INGEST, "gradients"),
    "ekfac_fitting": (*_INGEST, "gradients", "kept_curvature"),
    "source_scoring": (*_INGEST, "gradients", "kept_curvature", "scores"),
    "cleaning_report": (*_INGEST, "gradients", "kept_curvature", "scores", "report"),
}
_WORDS: Final = {
    "code": "another version of Sourcetrace or torch",
    "task": "another task, other arguments of it or other code in its module",
    "data": "other training data or queries, or a model made of other files",
    "checkpoints": "other checkpoints",
    "segments": "other segments, stages, learning rates or limit of bare parameters",
    "gradients": "another method, seed, precision, sampled_labels or curvature_examples",
    "kept_curvature": "another kept_curvature",
    "scores": "other settings of attribution",
    "report": "other settings of report",
}


@dataclass(frozen=True)
class MadeOf:
    """Digests of what a result was made of.

    Attributes:
        code: Of this package's code that computes, and the versions of it and of torch.
        task: Of its class, its arguments and the code of its module.
        data: Of the training data and the queries, and of what the task's model is made of.
        checkpoints: Of the files and the JSON beside them, their names included.
        segments: Of the parameters by which checkpoints are grouped and steps weighed, and which
            parameters of the model count.
        gradients: Of the parameters on which gradients and curvature depend.
        scores: Of the other parameters of attribution, its device apart.
        report: Of the parameters of the review list.
        kept_curvature: Where a curvature of other data may be taken, of how much others.
    """

    code: str
    task: str
    data: str
    checkpoints: str
    segments: str
    gradients: str
    scores: str
    report: str
    kept_curvature: str = ""

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Any],
        *,
        data: str,
        checkpoints: str,
        code: str | None = None,
    ) -> Self:
        """Return the parts of an audit with these parameters.

        Args:
            parameters: Of the project, by group, whether Kedro has checked them or not.
            data: As `data_part` returns it.
            checkpoints: As `checkpoints_part` returns it.
            code: As `code_of` returns it, where it was read elsewhere.

        Raises:
            InputError: If a parameter, or a file that one names, is wrong.
        """
        attribution = checked("attribution", AttributionParameters, parameters)
        del attribution["device"]  # it changes no more than the rounding
        precision, kept = attribution.pop("precision"), attribution.pop("kept_curvature")
        named = parameters.get("checkpoints") or {}
        rates = rates_file(named.get("learning_rates"), named.get("cache"))
        segments = checked("segments", SegmentParameters, parameters)
        return cls(
            code=code_part(*_COMPUTING),
            task=cls.task_part(
                validated(TaskParameters, parameters.get("task") or {}, name="task"), code=code
            ),
            data=data,
            checkpoints=checkpoints,
            segments=digest_of(
                [
                    segments,
                    *(named.get(key) for key in ("stages", "optimizer", "step_from", "at_most")),
                    _file_digest(rates),
                    attribution.pop("bare_parameters"),
                    attribution.pop("layers"),
                ]
            ),
            gradients=digest_of(
                [
                    *(attribution.pop(name) for name in _GRADIENTS),
                    precision.pop("passes"),
                    precision.pop("curvature"),
                ]
            ),
            scores=digest_of([attribution, precision]),
            report=digest_of(checked("report", ReportParameters, parameters)),
            kept_curvature=f"{kept:g}" if kept else "",
        )

    def digest_for(self, stage: str) -> str:
        """Return one digest of the parts that a stage depends on."""
        return digest_of(list(self.parts_for(stage).values()))

    def parts_for(self, stage: str) -> dict[str, str]:
        """Return the parts that a stage depends on."""
        return {name: getattr(self, name) for name in _STAGES[stage]}

    def differences(self, other: "MadeOf", stage: str) -> str:
        """Return in words what a stage's results were made with in `self` and not in `other`."""
        return "; ".join(
            _WORDS[name] for name in _STAGES[stage] if getattr(self, name) != getattr(other, name)
        )

    @staticmethod
    def task_part(task: TaskParameters, *, code: str | None = None) -> str:
        """Return the part of a task's class, its arguments and the code of its module.

        Every argument counts: whether one decides numbers, no name tells (`target_token`).
        """
        code = MadeOf.code_of(task.class_path) if code is None else code
        return digest_of([task.class_path, task.arguments, code])

    @staticmethod
    def retraining_part(task: TaskParameters, *, recipe: object, data: str) -> str:
        """Return one digest of what every retraining's outcome depends on.

        Args:
            task: The task; what other modules than its own hold is not seen.
            recipe: Of the task, a JSON value.
            data: As `data_part` returns it.
        """
        return digest_of([MadeOf.task_part(task), recipe, data])

    @staticmethod
    def checkpoints_part(files: Mapping[str, str]) -> str:
        """Return the part of the files' names and SHA-256 digests."""
        return digest_of(dict(files))

    @staticmethod
    def data_part(data: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the part of what `data_digests` says of both sides."""
        parts = ("digest", "table", "batch", "model")
        return digest_of({side: [one.get(p) for p in parts] for side, one in data.items()})

    @staticmethod
    def code_of(class_path: str) -> str:
        """Return the digest of the code of a class's module, its comments apart.

        The module is not imported: a report from tables needs no torch. What other modules hold, it
        cannot see.
        """
        spec, path = None, None
        packages = class_path.split(".")[:-1]
        for depth in range(1, len(packages) + 1):
            name = ".".join(packages[:depth])
            found = (finder.find_spec(name, path) for finder in sys.meta_path)
            spec = next((one for one in found if one is not None), None)
            if spec is None:
                break
            path = spec.submodule_search_locations
        file = Path(spec.origin) if spec is not None and spec.origin else None
        if file is None or file.suffix != ".py":  # a compiled module has no source
            return hashlib.sha256(b"").hexdigest()
        status = file.stat()
        return _source_digest(file, status.st_mtime_ns, status.st_size)


def checked(name: str, group: type[BaseModel], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with its defaults, whether Kedro has checked it already or not.

    Raises:
        InputError: If a parameter is wrong.
    """
    return validated(group, parameters.get(name) or {}, name=name).model_dump(
        mode="json", by_alias=True
    )


@lru_cache
def _source_digest(file: Path, modified: int, size: int) -> str:
    return hashlib.sha256(ast.dump(ast.parse(file.read_bytes())).encode()).hexdigest()


@cache
def code_part(*folders: str) -> str:
    """Return the digest of the versions and of this package's code, or of that of some folders."""
    package = Path(__file__).parents[2]
    content = hashlib.sha256()
    found = chain.from_iterable(sorted((package / one).rglob("*.*")) for one in folders or [""])
    # Python writes there meanwhile, under passing names.
    for file in (one for one in found if one.is_file() and one.parent.name != "__pycache__"):
        content.update(f"{file.relative_to(package).as_posix()}\0".encode())
        content.update(hashlib.sha256(file.read_bytes()).digest())
    try:
        torch = version("torch").split("+", maxsplit=1)[0]  # without its build
    except PackageNotFoundError:
        torch = ""
    return digest_of([__version__, torch, content.hexdigest()])


def _file_digest(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"checkpoints.learning_rates: {path} cannot be read: {error}") from error
