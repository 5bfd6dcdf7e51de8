"""One pandera model a table; the catalog's `validator:` holds every table against its own."""

from sourcetrace.schemas.audit_log import AuditLog as AuditLog
from sourcetrace.schemas.checkpoints import CheckpointManifest as CheckpointManifest
from sourcetrace.schemas.checkpoints import UnattributedParameters as UnattributedParameters
from sourcetrace.schemas.comparison import AuditComparison as AuditComparison
from sourcetrace.schemas.comparison import CurvatureSpectra as CurvatureSpectra
from sourcetrace.schemas.comparison import ExampleDigests as ExampleDigests
from sourcetrace.schemas.examples import DigitsTrainingSet as DigitsTrainingSet
from sourcetrace.schemas.examples import PlantedLabelErrors as PlantedLabelErrors
from sourcetrace.schemas.examples import QueryTable as QueryTable
from sourcetrace.schemas.examples import TrainTable as TrainTable
from sourcetrace.schemas.review import ReviewList as ReviewList
from sourcetrace.schemas.scores import AttributionScores as AttributionScores
from sourcetrace.schemas.scores import ExampleSignals as ExampleSignals
from sourcetrace.schemas.scores import QueryInfluence as QueryInfluence
from sourcetrace.schemas.scores import QuerySignals as QuerySignals
from sourcetrace.schemas.scores import SegmentContributions as SegmentContributions
from sourcetrace.schemas.scores import SelfInfluence as SelfInfluence
from sourcetrace.schemas.scores import SuspectPictures as SuspectPictures
from sourcetrace.schemas.verification import VerificationOutcomes as VerificationOutcomes
from sourcetrace.schemas.verification import VerificationPlan as VerificationPlan
from sourcetrace.schemas.verification import VerificationQueries as VerificationQueries
from sourcetrace.schemas.verification import VerificationRemovals as VerificationRemovals
from sourcetrace.schemas.verification import VerificationSummary as VerificationSummary
