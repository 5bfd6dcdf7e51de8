"""Run every check of an audit, whatever the others say, and write nothing of the audit's."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from kedro.pipeline import Pipeline

from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.core.training.segments import group_step_masses
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.errors import InputError, with_place
from sourcetrace.formats import format_bytes
from sourcetrace.parameters import (
    AttributionParameters,
    GateParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.checks import CHECKS
from sourcetrace.pipelines.checkpoint_ingest.described import describe
from sourcetrace.pipelines.checkpoint_ingest.examination import Examination
from sourcetrace.pipelines.set_up.nodes import planned_cost, set_up_audit
from sourcetrace.pipelines.shared.accounting import seconds_text
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.preflight import (
    CheckLine,
    CheckpointLine,
    LayerLine,
    Preflight,
    PreflightRefused,
)
from sourcetrace.tasks import Task


def check_everything(
    checkpoints: CheckpointFolder,
    task: Task,
    gradient_cache: GradientCache,
    segments: SegmentParameters,
    attribution: AttributionParameters,
    gradients: GradientParameters,
    gate_baseline: Any,
    gate: GateParameters,
) -> dict[str, Any]:
    """Return a `Preflight`, as JSON.

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        gradient_cache: Where gradients would be kept.
        segments: How many segments, or where they end.
        attribution: The method.
        gradients: How they would be kept.
        gate_baseline: The approved metrics, as their file has them.
        gate: The limits.
    """
    start = time.perf_counter()
    examined = Examination(checkpoints, task, segments, attribution)

    def cost() -> str:
        manifest, _ = describe(examined.found, examined.runs, examined.segments, examined.coverage)
        tables = examined.train_table, examined.query_table
        inputs = Ingested(task, checkpoints, manifest, *tables, data="", identity="preflight")
        # Where an audit would keep them; what is chosen for this one is not kept.
        with TemporaryDirectory(dir=gradient_cache.existing_folder) as folder:
            setup = set_up_audit(inputs, GradientCache(Path(folder)), gradients, attribution)
            found = planned_cost(setup, gradients)
        return (
            f"{seconds_text(found.run.seconds)} of computing (Python and files come on top), in "
            "batches of "
            f"{setup.engine.batch_size}; gradients take {format_bytes(found.gradients)} "
            f"({found.kept}); {format_bytes(found.disk)} of disk, "
            f"{format_bytes(found.free_disk)} are free"
        )

    def baseline() -> str:
        return Baseline.parse(gate_baseline, path=gate.baseline).path or "none is set"

    runs = [(one.title, partial(one.run, examined)) for one in CHECKS]
    lines = list(_lines([*runs, ("time and disk", cost), ("gate's baseline", baseline)]))
    if notes := getattr(task, "notes", None):
        lines.append(CheckLine("notes of the task", "warning", ". ".join(notes)))
    seconds = time.perf_counter() - start
    return Preflight(
        seconds, tuple(lines), _checkpoint_lines(examined), _layer_lines(examined)
    ).to_json()


def enforce_preflight(preflight_report: dict[str, Any]) -> dict[str, Any]:
    """Return the report, or end the run.

    Raises:
        PreflightRefused: If an audit would end with an error.
    """
    report = Preflight.from_json(preflight_report)
    if report.titles("refused"):
        raise PreflightRefused(report)
    return preflight_report


def _lines(checks: list[tuple[str, Callable[[], str]]]) -> Iterator[CheckLine]:
    failed: list[tuple[Exception, str]] = []
    for title, run in checks:
        with _warnings() as warned:
            try:
                found = run()
            except Exception as error:  # an audit would end with it
                needs = next((name for known, name in failed if known is error), None)
                failed.append((error, title))
                if needs is None:
                    yield CheckLine(title, "refused", _said(error))
                else:
                    yield CheckLine(title, "skipped", f"needs {needs}")
                continue
        text = ". ".join([found, *warned])
        yield CheckLine(title, "warning" if warned else "ok", text)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Give the warnings that the audit would log, and keep the log quiet."""
    said: list[str] = []
    ours = logging.getLogger("sourcetrace")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    ours.addHandler(handler)
    before, ours.propagate = ours.propagate, False
    try:
        yield said
    finally:
        ours.propagate = before
        ours.removeHandler(handler)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else with_place(error)


def _checkpoint_lines(examined: Examination) -> tuple[CheckpointLine, ...]:
    """Return a line a checkpoint; none where they were refused."""
    try:
        found = examined.found
    except Exception:  # said by its check
        return ()
    lines = [_checkpoint_line(one) for one in found]
    try:
        runs = examined.runs
    except Exception:
        return tuple(lines)
    known = [
        (rates.source, masses[0])
        for run in runs
        for rates, masses in zip(run.rates, group_step_masses(run.records), strict=True)
    ]
    return tuple(
        CheckpointLine(**{**vars(line), "rates": source, "step_mass": mass})
        for line, (source, mass) in zip(lines, known, strict=True)
    )


def _layer_lines(examined: Examination) -> tuple[LayerLine, ...]:
    """Return a line a layer and a parameter without attribution; none where that was refused."""
    try:
        coverage = examined.coverage
    except Exception:  # said by its check
        return ()
    alone = [(one.name, one.size, one.reason) for one in coverage.unattributed]
    every = [*((layer.name, layer.size, "") for layer in coverage.layers), *alone]
    total = sum(size for _, size, _ in every)
    return tuple(LayerLine(name, size, size / total, reason) for name, size, reason in every)


def _checkpoint_line(one: Checkpoint) -> CheckpointLine:
    record, kind = one.record, PurePosixPath(one.file).suffix or "folder"
    return CheckpointLine(
        one.file, kind, record.step, record.stage, record.optimizer, record.learning_rate
    )


PIPELINE = Pipeline(
    [
        step(check_everything, "preflight_report"),
        step(enforce_preflight, "preflight_verdict"),
    ]
)
