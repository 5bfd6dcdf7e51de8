"""A damaged folder is read or refused; it never ends in another error."""

import pytest

from tests.checkpoints.fuzz import run, write_all


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_damaged_checkpoints_are_read_or_refused(tmp_path):
    model, folders = write_all(tmp_path)
    outcomes, failures = run(folders, model, inputs=300)
    assert not failures, "\n".join(failures)
    assert outcomes["refused"] > outcomes["accepted"] > 0
