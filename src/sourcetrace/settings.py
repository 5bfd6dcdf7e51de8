"""Kedro's settings of the project."""

import os

# Before MLflow is imported: an audit's names and data are nobody's telemetry.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from sourcetrace.configuration import ParameterAwareConfigLoader
from sourcetrace.hooks import ProjectFolderHook, ReadableErrorsHook, SummaryHook, VerdictHook
from sourcetrace.tracking.hooks import RunRecordHook, SecretsHook
from sourcetrace.tracking.lineage_hook import LineageHook
from sourcetrace.tracking.server_hook import TrackingServerHook

HOOKS = (
    ProjectFolderHook(),
    ReadableErrorsHook(),
    TrackingServerHook(),
    SecretsHook(),
    RunRecordHook(),
    LineageHook(),
    SummaryHook(),
    VerdictHook(),
)

CONFIG_LOADER_CLASS = ParameterAwareConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment states only what differs from the base.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
}
