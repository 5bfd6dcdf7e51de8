"""One pandera model a table; the catalog's `validator:` holds every table against its own."""

from sourcetrace.schemas.audit_log import AuditLog
from sourcetrace.schemas.checkpoints import CheckpointManifest, UnattributedParameters
from sourcetrace.schemas.comparison import AuditComparison, CurvatureSpectra, ExampleDigests
from sourcetrace.schemas.demo import DigitsTrainingSet, PlantedLabelErrors
from sourcetrace.schemas.examples import QueryTable, TrainTable
from sourcetrace.schemas.review import ReviewList
from sourcetrace.schemas.scores import (
    AttributionScores,
    QueryInfluence,
    SegmentContributions,
    SelfInfluence,
    SuspectPictures,
)
from sourcetrace.schemas.signals import ExampleSignals, QuerySignals
from sourcetrace.schemas.verification import (
    VerificationOutcomes,
    VerificationPlan,
    VerificationQueries,
    VerificationRemovals,
    VerificationSummary,
)

__all__ = [
    "AttributionScores",
    "AuditComparison",
    "AuditLog",
    "CheckpointManifest",
    "CurvatureSpectra",
    "DigitsTrainingSet",
    "ExampleDigests",
    "ExampleSignals",
    "PlantedLabelErrors",
    "QueryInfluence",
    "QuerySignals",
    "QueryTable",
    "ReviewList",
    "SegmentContributions",
    "SelfInfluence",
    "SuspectPictures",
    "TrainTable",
    "UnattributedParameters",
    "VerificationOutcomes",
    "VerificationPlan",
    "VerificationQueries",
    "VerificationRemovals",
    "VerificationSummary",
]
