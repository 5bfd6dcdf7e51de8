"""A few of many checkpoints, `checkpoints.at_most` a run, with the step masses of all."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.repeated import without_repeated
from sourcetrace.core.training.segments import group_step_masses
from sourcetrace.core.training.thinning import joined, kept_places, must_keep
from sourcetrace.errors import InputError
from sourcetrace.formats import format_noun
from sourcetrace.pipelines.checkpoint_ingest.training import Training

logger = logging.getLogger(__name__)

_MANY = 50


@dataclass(frozen=True)
class Thinned:
    """The runs with the checkpoints that are kept.

    Attributes:
        runs: Each kept checkpoint with the steps and step masses of those left out before it.
        digests: Name -> SHA-256 of all checkpoints.
        kept: Ids of those that are kept.
    """

    runs: list[Training]
    digests: Mapping[str, str]
    kept: frozenset[str]

    @classmethod
    def of(cls, folder: CheckpointFolder, model: nn.Module) -> Self:
        """Read how every checkpoint was trained, without its weights, and choose among them.

        Raises:
            InputError: If more must be kept than may be.
        """
        found = [folder.load(file, None) for file in folder.files()]
        every = Training.of_runs(without_repeated(found, folder, model), folder, model)
        runs = [_thinned(run, folder.at_most or len(found)) for run in every]
        kept = frozenset(record.id for run in runs for record in run.records)
        return cls(runs, {one.file: one.sha256 for one in found}, kept)


def warn_of_many(count: int) -> None:
    """Say that fewer would do."""
    if count > _MANY:
        logger.warning(
            "%d checkpoints: every one costs a pass over the training data. Set "
            "checkpoints.at_most, to 12 say, to audit those between which the step mass is even",
            count,
        )


def _thinned(run: Training, at_most: int) -> Training:
    masses = [sum(own) for own in group_step_masses(run.records)]
    must = must_keep(run.records)
    if len(must) > at_most:
        names = ", ".join(run.records[place].id for place in sorted(must))
        raise InputError(
            f"checkpoints.at_most is {at_most}, but {len(must)} checkpoints must be kept: {names}, "
            "the first, the last, and the last of every stage and set of trained parameters. Set "
            f"it to {len(must)} or more."
        )
    places = kept_places(masses, must, at_most)
    begins = [0, *(place + 1 for place in places)]
    spans = [slice(begin, place + 1) for begin, place in zip(begins, places, strict=False)]
    both = [joined(run.records[span], run.rates[span]) for span in spans]
    chosen = {
        field.name: tuple(getattr(run, field.name)[place] for place in places)
        for field in fields(run)
    }
    logger.info(
        "%sAudited of %s: %s",
        f"Run {run.name}: " if run.name else "",
        format_noun(len(run.records), "checkpoint"),
        ", ".join(record.id for record, _ in both),
    )
    sources = (
        {**own, "step_mass": ", then ".join(rates.origins)}
        for own, (_, rates) in zip(chosen["sources"], both, strict=True)
    )
    return replace(
        run,
        **chosen
        | {
            "records": tuple(record for record, _ in both),
            "rates": tuple(rates for _, rates in both),
            "sources": tuple(sources),
        },
    )
