"""Groups of training examples that hold more suspects than chance would put there."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table

KINDS = ("label_pair", "class", "slice", "stage", "near_duplicates")


class SuspectGroups(Table):
    """One row a group that stands out, the most harmful first.

    Attributes:
        group_id: Of this table and `GroupSuspects`; another audit numbers anew.
        kind: One of `KINDS`.
        name: "3 → 8" (given → predicted), a class, "column: value", a stage, or the id of a
            cluster's first member.
        examples, suspects: Members, and how many of them are suspects.
        expected: Suspects that chance would put there.
        p_value: How likely chance puts as many there, corrected for all groups looked at.
        harm: Summed over all members, suspects or not.
        harm_error: Standard error of that sum.
        members: Ids of up to three, the most harmful first.
    """

    group_id: str = pa.Field(unique=True)
    kind: str = pa.Field(isin=KINDS)
    name: str
    examples: int = pa.Field(ge=1)
    suspects: int = pa.Field(ge=1)
    expected: float = pa.Field(ge=0)
    p_value: float = pa.Field(ge=0, le=1)
    harm: float
    harm_error: float = pa.Field(ge=0)
    members: pl.List = pa.Field(dtype_kwargs={"inner": pl.String()})


class GroupSuspects(Table):
    """One row a suspect and group of `SuspectGroups` that it belongs to."""

    group_id: str
    example_id: str

    class Config:
        """One row a pair."""

        unique = ("group_id", "example_id")
