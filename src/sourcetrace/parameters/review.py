"""What people are shown, what they decide, and with what it is compared."""

from pydantic import Field

from sourcetrace.parameters.base import Parameters


class _IssueParameters(Parameters):
    """The score from which on each issue of `schemas.issues` is flagged.

    Attributes:
        label: Of the suspicion of suspects.
        conflicting_duplicate: Of the cosine to the nearest example of another label.
        leakage: Of the cosine to the nearest query.
        dominates_class: 1 - 1/k: k times the influence of the others of its class.
        unsupported_slice: Of how much fewer helpers the slice's queries have.
        forgotten: Of the probability that the label lost.
    """

    label: float = Field(default=0.5, gt=0, le=1)
    conflicting_duplicate: float = Field(default=0.99, gt=0, le=1)
    leakage: float = Field(default=0.99, gt=0, le=1)
    dominates_class: float = Field(default=0.9, gt=0, le=1)
    unsupported_slice: float = Field(default=0.5, gt=0, le=1)
    forgotten: float = Field(default=0.5, gt=0, le=1)


class ReportParameters(Parameters):
    """What the review list suggests, and what is flagged.

    Attributes:
        false_discovery_rate: Suspects are as many that about this share of them has a right label.
        relabel_probability: A suspect is suggested for relabelling where the model, without the
            example itself, gives its label less than this.
        pictures: Suspects, and queries with their strongest examples, whose pictures are kept for
            the page.
        near_duplicate: Cosine from which on two examples are near-duplicates.
        issues: Thresholds.
    """

    false_discovery_rate: float = Field(default=0.2, ge=0, lt=1)
    relabel_probability: float = Field(default=0.5, ge=0, le=1)
    pictures: int = Field(default=48, ge=0)
    near_duplicate: float = Field(default=0.99, gt=0, le=1)
    issues: _IssueParameters = _IssueParameters()


class DecisionParameters(Parameters):
    """What `apply_decisions` is given.

    Attributes:
        path: The CSV file of decisions; null takes those that are in the log alone.
        by: Who decided; null means the user of this machine.
        sample: Examples to draw for review, half of them suspects.
        seed: Of the sample.
    """

    path: str | None = Field(default=None, min_length=1)
    by: str | None = Field(default=None, min_length=1)
    sample: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)


class ComparisonParameters(Parameters):
    """How an audit is compared with earlier ones.

    Attributes:
        keep: Audits of a task and model that are kept; the trends show as many. At least two:
            an audit that runs again is compared with the one before it.
        class_minimum: Examples that a label needs to have a rank correlation of its own.
    """

    keep: int = Field(default=30, ge=2)
    class_minimum: int = Field(default=20, ge=3)


class StatusParameters(Parameters):
    """How it is found out what is done of an audit.

    Attributes:
        check: Whether every byte is read, to find damaged files.
    """

    check: bool = False
