"""The checkpoints and the layers, as far as an examination came to know them."""

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.training.segments import group_step_masses
from sourcetrace.pipelines.checkpoint_ingest.examination import Examination
from sourcetrace.reporting.preflight import CheckpointLine, LayerLine


def checkpoint_lines(examined: Examination) -> tuple[CheckpointLine, ...]:
    """Return a line a checkpoint; none where they were refused."""
    try:
        found = examined.found
    except Exception:  # said by its check
        return ()
    lines = [_line(one) for one in found]
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


def layer_lines(examined: Examination) -> tuple[LayerLine, ...]:
    """Return a line a layer and a parameter without attribution; none where that was refused."""
    try:
        coverage = examined.coverage
    except Exception:  # said by its check
        return ()
    alone = [(one.name, one.size, one.reason) for one in coverage.unattributed]
    every = [*((layer.name, layer.size, "") for layer in coverage.layers), *alone]
    total = sum(size for _, size, _ in every)
    return tuple(LayerLine(name, size, size / total, reason) for name, size, reason in every)


def _line(one: Checkpoint) -> CheckpointLine:
    record, suffix = one.record, one.file.rpartition("/")[2].rpartition(".")[2]
    kind = f".{suffix}" if "." in one.file.rpartition("/")[2] else "folder of a Trainer"
    return CheckpointLine(
        one.file, kind, record.step, record.stage, record.optimizer, record.learning_rate
    )
