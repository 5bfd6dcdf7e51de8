"""Passes without the fused kernels that hide what layers do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sourcetrace.core.layers.kinds.bag import looked_up
from sourcetrace.core.layers.recurrent import unrolled


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Keep attention, and encoders of frozen layers, off the fused kernels of inference.

    Those call no modules and no linear function, and encoders pack padded sequences for them.
    Recurrent modules run step by step, and bags of embeddings look up their rows.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with unrolled(), looked_up():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
