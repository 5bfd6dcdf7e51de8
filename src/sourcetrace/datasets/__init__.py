"""Kedro data sets of ours.

None imports torch before it loads or saves: Kedro makes every data set of the catalog
whenever it runs anything, a report from existing tables too.
"""

from sourcetrace.datasets.audit_log import AuditLogDataset
from sourcetrace.datasets.audit_snapshots import AuditSnapshotsDataset
from sourcetrace.datasets.audited import AuditedDataset, AuditIdentityDataset
from sourcetrace.datasets.checkpoints import CheckpointsDataset
from sourcetrace.datasets.code_revision import CodeRevisionDataset
from sourcetrace.datasets.covariances import CovariancesDataset
from sourcetrace.datasets.curvature import CurvatureDataset
from sourcetrace.datasets.gradient_cache import GradientCacheDataset
from sourcetrace.datasets.optional_json import OptionalJSONDataset
from sourcetrace.datasets.optional_parquet import OptionalParquetDataset
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcomesDataset
from sourcetrace.datasets.score_files import ScoreFilesDataset
from sourcetrace.datasets.sharded_parquet import ShardedParquetDataset
from sourcetrace.datasets.task import TaskDataset

__all__ = [
    "AuditIdentityDataset",
    "AuditLogDataset",
    "AuditSnapshotsDataset",
    "AuditedDataset",
    "CheckpointsDataset",
    "CodeRevisionDataset",
    "CovariancesDataset",
    "CurvatureDataset",
    "GradientCacheDataset",
    "OptionalJSONDataset",
    "OptionalParquetDataset",
    "RetrainedOutcomesDataset",
    "ScoreFilesDataset",
    "ShardedParquetDataset",
    "TaskDataset",
]
