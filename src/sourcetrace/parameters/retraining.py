"""What is trained again."""

from typing import Annotated, Literal

from pydantic import Field

from sourcetrace.errors import InputError
from sourcetrace.parameters.base import Parameters


class VerificationParameters(Parameters):
    """What is trained again to test the scores.

    Attributes:
        subsets: Random subsets of the training data; at least 3, for a rank correlation over them,
            and 24 or more for a useful interval.
        fraction: Share of every stage's examples in a subset.
        seeds: Retrainings of the same examples; from 2 on there is a noise ceiling.
        removal_queries: Queries whose helpers are removed.
        removal_sizes: How many helpers are removed: shares of the training examples below 1,
            numbers of examples from 1 on.
        workers: Retrainings at the same time, a process each; null means one a CPU core.
            Under torchrun, Slurm or Kubernetes, each of their processes does one.
        seed: Of the subsets and the choice of queries, and the first seed of the retrainings.
    """

    subsets: int = Field(default=30, ge=3)
    fraction: float = Field(default=0.5, gt=0, lt=1)
    seeds: int = Field(default=3, ge=1)
    removal_queries: int = Field(default=8, ge=0)
    removal_sizes: list[Annotated[float, Field(gt=0)]] = Field(default=[0.02, 0.05])
    workers: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    def removal_counts(self, examples: int) -> list[int]:
        """Return the numbers of examples that `removal_sizes` means.

        Raises:
            InputError: If one is more than half of the examples.
        """
        counts = (size * examples if size < 1 else size for size in self.removal_sizes)
        sizes = sorted({max(1, round(count)) for count in counts})
        if sizes and 2 * sizes[-1] > examples:
            raise InputError(
                f"verification.removal_sizes asks for the removal of {sizes[-1]} of {examples} "
                "training examples; use sizes up to half of them (below 1 a share, from 1 on a "
                "count)."
            )
        return sizes


class CleaningParameters(Parameters):
    """What `verify_cleaning` trains again.

    Attributes:
        of: Whether people's decisions are tested, or what the review list suggests.
        seeds: Retrainings with and without the changes.
        random: Draws of as many changes at random, each trained with every seed.
        workers: Retrainings at the same time, a process each; null means one a CPU core.
            Under torchrun, Slurm or Kubernetes, each of their processes does one.
        seed: The first seed of the retrainings, and of the draws.
    """

    of: Literal["decisions", "suggestions"] = "decisions"
    seeds: int = Field(default=10, ge=2)
    random: int = Field(default=3, ge=0)
    workers: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
