"""Which errors a user is meant to read."""

import errno
import logging

import polars as pl
import pytest
import torch

from sourcetrace.errors import InputError
from sourcetrace.hooks.terminal import (
    is_no_vain_advice,
    readable_error,
)


def chained(cause):
    try:
        try:
            raise cause
        except type(cause) as error:
            raise ValueError("a node failed") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes\nmore"),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_said_in_a_paragraph(error):
    said = str(readable_error(chained(error)))
    assert said.startswith("Memory ran out (")
    assert "preflight" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "data/part"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device\nmore"),
    ],
)
def test_a_full_disk_is_said_in_a_paragraph(error):
    said = str(readable_error(chained(error)))
    assert said.startswith(("No space left on device (", "Disk quota exceeded ("))
    assert str(error).splitlines()[0] in said
    assert "\n" not in said


def test_what_is_refused_stands_and_other_errors_are_nobodys():
    refused = InputError("checkpoints.path: there is no folder")
    assert readable_error(chained(refused)) is refused
    assert readable_error(chained(KeyError("a"))) is None


@pytest.mark.parametrize("refused", [True, False])
def test_a_command_that_was_refused_is_not_to_be_repeated(refused, caplog):
    logger = logging.getLogger("tests.runner")
    logger.addFilter(is_no_vain_advice)
    try:
        raise InputError("no") if refused else KeyError("a")
    except (InputError, KeyError):
        logger.warning("No nodes ran. Repeat the previous command to attempt a new run.")
        logger.warning("There are 3 nodes that have not run.")
    assert [one.getMessage()[:2] for one in caplog.records] == ["No", "Th"][refused:]
