"""What sub-folders of checkpoints were taken for, where that is anybody's guess."""

import logging
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.formats import format_names

logger = logging.getLogger(__name__)


def say_what_folders_are(found: Sequence[Checkpoint]) -> None:
    """Say what sub-folders were taken for; as a warning where they may be something else.

    Args:
        found: The checkpoints, in the order in which they were read.
    """
    runs = list(dict.fromkeys(one.record.run for one in found if one.record.run))
    folders = [(str(PurePosixPath(one.file).parent), one.record) for one in found]
    # A stage that lies in a folder of its own was named in checkpoints.stages.
    single = [
        (folder, record.step)
        for folder, record in folders
        if folder != "." and not record.run and record.stage != folder
    ]
    if len(runs) > 1:
        last = {one.record.run: one.record.step for one in found}
        alike = len({re.sub(r"[0-9]+", "#", name) for name in runs}) == 1
        sure = alike and len(set(last.values())) == 1
        logger.log(
            logging.INFO if sure else logging.WARNING,
            "The sub-folders %s of checkpoints.path are taken for %d trainings of the same model, "
            "an ensemble whose scores are averaged. If they are stages that follow each other, "
            "name them in checkpoints.stages, each with its last step counted over all",
            format_names(runs),
            len(runs),
        )
    elif single and not all(_number(folder) == step for folder, step in single):
        logger.warning(
            "The sub-folders %s of checkpoints.path are taken for the checkpoints of one training, "
            "for each holds one and they are named alike but for a number. If they are trainings "
            "of their own, rename them so that no number is at the end (seed_0_run)",
            format_names(folder for folder, _ in single),
        )


def _number(name: str) -> int | None:
    found = re.search(r"([0-9]+)$", name)
    return int(found[1]) if found else None
