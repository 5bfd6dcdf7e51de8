"""Standard output for a command's result alone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """Send what this process and its children print to standard error instead.

    Children and libraries write to the descriptor, this interpreter to an object over it.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
