"""What the later stages know of checkpoints and layers, as tables and lines of the log."""

import logging
from collections.abc import Sequence
from itertools import chain

import polars as pl

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.training.segments import Segment
from sourcetrace.formats import format_names, format_noun
from sourcetrace.pipelines.checkpoint_ingest.training import Training
from sourcetrace.schemas.checkpoints import CheckpointManifest, UnattributedParameters

logger = logging.getLogger(__name__)


def describe(
    found: Sequence[Checkpoint],
    runs: Sequence[Training],
    segments: Sequence[Segment],
    coverage: Coverage,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return checkpoint_manifest and unattributed_parameters of inputs that passed."""
    number = {name: segment.number for segment in segments for name in segment.checkpoints}
    rows = chain.from_iterable(run.rows() for run in runs)
    manifest = CheckpointManifest.frame(
        row
        | {
            "file": checkpoint.file,
            "segment": number[row["checkpoint_id"]],
            "sha256": checkpoint.sha256,
            "bytes": checkpoint.bytes,
            "attributed_share": coverage.share,
        }
        for checkpoint, row in zip(found, rows, strict=True)
    )
    of_runs = f" of {format_noun(len(runs), 'run')}" if len(runs) > 1 else ""
    logger.info(
        "%s%s in %s, steps %d to %d; %.1f %% of the parameters attributed",
        format_noun(len(found), "checkpoint"),
        of_runs,
        format_noun(len(segments), "segment"),
        manifest["step"].min(),
        manifest["step"].max(),
        100 * coverage.share,
    )
    if coverage.alone:
        logger.info(
            "Attributed by passes of every example alone, which take longer: %s whose inputs do "
            "not say which example they belong to, or of no known kind, %d parameters in all (%s); "
            "attribution.bare_parameters: null leaves them out",
            format_noun(len(coverage.alone), "layer"),
            sum(layer.size for layer in coverage.alone),
            format_names([layer.name for layer in coverage.alone]),
        )
    for name, others in coverage.tied.items():
        logger.info("%s is also %s: attributed once, as the sum", name, ", ".join(others))
    left_out = UnattributedParameters.frame(
        (p.name, p.size, p.reason) for p in coverage.unattributed
    )
    return manifest, left_out
