"""Kedro data sets of ours, each imported when it is asked for.

kedro-mlflow makes every data set of the catalog whenever anything runs, a report from existing
tables too: none that a catalog names by itself imports torch before it loads or saves. Those inside
an `AuditedDataset` are made when they are used.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AuditIdentityDataset": "audit_identity",
    "AuditLogDataset": "audit_log",
    "AuditSnapshotsDataset": "audit_snapshots",
    "AuditedDataset": "audited",
    "CheckpointsDataset": "checkpoints",
    "CodeRevisionDataset": "code_revision",
    "CurvatureDataset": "layers",
    "DecisionLogDataset": "decisions",
    "DecisionsFileDataset": "decisions",
    "GradientCacheDataset": "gradient_cache",
    "OptionalJSONDataset": "optional",
    "OptionalParquetDataset": "optional",
    "RetrainedOutcomesDataset": "retrained_outcomes",
    "ReviewSampleDataset": "decisions",
    "ScoreFilesDataset": "score_files",
    "ShardedParquetDataset": "sharded_parquet",
    "StoredAuditDataset": "audited",
    "StreamedParquetDataset": "sharded_parquet",
    "TaskDataset": "task",
}
"""Class -> module of this package."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
