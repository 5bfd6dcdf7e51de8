"""A stage's result together with what it was computed from."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from sourcetrace.errors import InputError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class StageResult(Generic[_Value]):
    """A value and the identity of the inputs and settings behind it.

    Attributes:
        identity: Digest of checkpoints, data, method and settings.
        value: The result.
    """

    identity: str
    value: _Value

    def of(self, identity: str, *, stage: str) -> _Value:
        """Return the value if it belongs to `identity`.

        Raises:
            InputError: If it was computed from something else; `stage` is to be run again.
        """
        if identity != self.identity:
            raise InputError(
                f"What {stage} left behind was computed with other settings, checkpoints or data "
                "(attribution, ensemble, segments, gradients.batch_size; for scaled_source the "
                f"queries too). Run {stage} and the stages after it again, or the whole audit."
            )
        return self.value
