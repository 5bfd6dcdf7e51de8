"""Kedro's settings of the project."""

import os

# Before MLflow is imported: an audit's names and data are nobody's telemetry.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# Before torch is: threads that wait spin, and on a busy machine keep those that work from it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sourcetrace.imports import lasting

with lasting():
    from sourcetrace.configuration import LOADER_ARGUMENTS, ParameterAwareConfigLoader
    from sourcetrace.hooks.alerts import AlertHook
    from sourcetrace.hooks.audit_run import AuditRunHook
    from sourcetrace.hooks.catalog import CatalogHook
    from sourcetrace.hooks.launch import LaunchHook
    from sourcetrace.hooks.lineage import LineageHook
    from sourcetrace.hooks.misspelt import MisspeltHook
    from sourcetrace.hooks.openlineage import OpenLineageHook
    from sourcetrace.hooks.project_folder import ProjectFolderHook
    from sourcetrace.hooks.run_lock import RunLockHook
    from sourcetrace.hooks.run_record import RunRecordHook, SecretsHook
    from sourcetrace.hooks.set_aside import SetAsideHook
    from sourcetrace.hooks.standing import StandingResultsHook
    from sourcetrace.hooks.summary import TerminalHook
    from sourcetrace.hooks.tracking_server import TrackingServerHook

HOOKS = (
    ProjectFolderHook(),
    CatalogHook(),
    TrackingServerHook(),
    RunLockHook(),
    SecretsHook(),
    RunRecordHook(),
    AuditRunHook(),
    LineageHook(),
    StandingResultsHook(),
    OpenLineageHook(),
    TerminalHook(),
    AlertHook(),
    MisspeltHook(),
    LaunchHook(),
    SetAsideHook(),
)

CONFIG_LOADER_CLASS = ParameterAwareConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGUMENTS
