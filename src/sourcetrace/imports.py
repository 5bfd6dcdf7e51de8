"""Imports that Python does not look through for garbage: what is imported stays.

A run imports half a million objects. Looked through again and again while they grow in number, they
took a fifth of the CPU time of an audit that had nothing left to do.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Import without a collection, and leave what there is then out of later ones."""
    known, collects = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Else nothing was imported, and in a process of many runs garbage would stay.
        if len(sys.modules) > known:
            gc.freeze()
        if collects:
            gc.enable()
