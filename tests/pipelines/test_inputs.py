"""What a later stage meets must be what the ingest described."""

import polars as pl
import pytest

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.errors import InputError
from sourcetrace.pipelines.shared.inputs import check_inputs
from tests.verifiable import CountingTask


class Files:
    """Stands in for the folder of checkpoints."""

    def digests(self, _=None):
        return {"a.pt": "1"}


def checked(task, described):
    made_of = MadeOf(
        *("code", "task"),
        data=MadeOf.data_part(task_digests(described)),
        checkpoints=MadeOf.checkpoints_part(Files().digests()),
        **dict.fromkeys(("segments", "gradients", "scores", "report"), ""),
    )
    empty = pl.DataFrame()
    return check_inputs(made_of, *(empty for _ in range(5)), Files(), task)


def test_the_same_data_are_accepted_and_others_refused(tmp_path):
    task, other = CountingTask(str(tmp_path)), CountingTask(str(tmp_path))
    assert checked(task, task).task is task
    other.query_table = lambda: task.query_table().with_columns(label=pl.lit("1"))
    with pytest.raises(InputError, match="The data are not those that checkpoint_ingest described"):
        checked(other, task)


def test_data_that_cannot_be_read_any_more_are_refused(tmp_path):
    task = CountingTask(str(tmp_path))
    gone = CountingTask(str(tmp_path))
    gone.train_examples = (tmp_path / "gone.bin").read_bytes
    with pytest.raises(InputError, match=r"cannot be read any more: FileNotFoundError.*gone"):
        checked(gone, task)
