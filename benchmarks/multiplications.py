"""Multiplications counted as they are done: matrix products, convolutions, eigendecompositions.

torch knows for each of its operations how many floating-point operations it takes, two a
multiplication. What is done element by element counts nothing, as in the rate that the count is
held against (`core.machine.timing`). Eigenvectors that SciPy's LAPACK finds are not seen.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sourcetrace.core.curvature.blocks import CUBES_OF_EIGENVECTORS


class MultiplicationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs while it is open, as a context manager.

    Every operation then takes some microseconds more.

    Attributes:
        total: Multiplications so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True, torch's default, imports its compiler, which takes a second, at the first use.
        return False

    def __enter__(self) -> "MultiplicationCounter":
        """Begin to count."""
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """End counting."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and add what it took."""
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        operation = func.overloadpacket
        if operation is torch.ops.aten._linalg_eigh:
            self.total += _of_eigenvectors(args[0])
        elif operation is torch.ops.mkldnn._linear_pointwise:  # core.machine.products
            self.total += args[0].numel() * args[1].shape[0]
        elif (formula := _FORMULAS.get(operation)) is not None:
            self.total += formula(*args, **keywords, out_val=result) // 2
        return result


_FORMULAS = cast("Mapping[Any, Callable[..., int]]", flop_registry)


def _of_eigenvectors(matrices: Tensor) -> int:
    return matrices.shape[:-2].numel() * CUBES_OF_EIGENVECTORS * matrices.shape[-1] ** 3
