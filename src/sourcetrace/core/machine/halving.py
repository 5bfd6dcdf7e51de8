"""Out of memory: the same rows in halves, and their results joined."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sourcetrace.errors import InputError

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    " error: out of memory",  # of CUDA, and of its driver, which expandable segments ask
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",  # of cuDNN from version 9 on
)
"""Where torch's allocator of a GPU is not asked: on a CPU, by CUDA itself, and by its libraries."""

_Result = TypeVar("_Result")


class Halving:
    """Runs batches in parts that fit; a size that once did not is not tried again.

    Attributes:
        most: Rows that are run at once; None while all were.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def run(
        self,
        work: Callable[[Tensor], _Result],
        rows: Tensor,
        *,
        join: Callable[[Sequence[_Result]], _Result],
    ) -> _Result:
        """Return the result of `work` on all rows.

        Args:
            work: Takes rows, each independent of the others.
            rows: Numbers of examples.
            join: Makes one result of those of consecutive rows.

        Raises:
            InputError: If one row alone needs more memory than there is.
        """
        if self.most is None or len(rows) <= self.most:
            try:
                return work(rows)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) <= 1:
                    reason = str(error).splitlines()[0] if str(error) else "out of memory"
                    raise InputError(
                        f"One example alone does not fit into memory ({reason}). Free memory, "
                        "choose another attribution.device, or freeze layers that need no "
                        "attribution."
                    ) from error
            # Out of the handler, so that the failed attempt's tensors are gone.
            self._halve(len(rows))
        parts = torch.split(rows, self.most or len(rows))
        return join([self.run(work, part, join=join) for part in parts])

    def _halve(self, rows: int) -> None:
        if self.most is None:
            logger.warning(
                "Out of memory with a batch of %d examples: batches are run in parts from here "
                "on. Set gradients.batch_size to %d or less to be spared the failed attempts.",
                rows,
                rows // 2,
            )
        self.most = rows // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)
