"""Watches a run, and records the audit in it when it ends, well or not."""

import hashlib
import logging
from collections.abc import Collection, Generator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from mlflow.tracking import MlflowClient

from sourcetrace.audit.identity.audit_key import RunKey
from sourcetrace.errors import InputError
from sourcetrace.hooks.terminal import show_readable_error
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.reporting.trust import Retraining
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.environment import device_tag
from sourcetrace.tracking.lineage.model_version import TRAINING_DIGEST, AuditedVersion
from sourcetrace.tracking.lineage.publish import append_row
from sourcetrace.tracking.lineage.read_parameters import read_tracking
from sourcetrace.tracking.lineage.record import (
    AuditRecord,
    CheckpointFile,
    DataRecord,
    ModelReference,
)
from sourcetrace.tracking.server.outage import reason_of
from sourcetrace.tracking.server.tracked import TRACKED
from sourcetrace.tracking.server.waiting_run import FOLDER, WaitingRun

logger = logging.getLogger(__name__)

_JUDGED = ("audit_summary", "gate_report", "verification_summary")
"""Outputs after which an audit's record is no longer what it was."""

_KEPT = (*_JUDGED, "data_digests", "checkpoint_manifest")


class LineageHook:
    """Records an audit in the local history, on its MLflow run and on the audited version."""

    def __init__(self) -> None:
        self._run_id = ""
        self._names = AuditNames()
        self._outputs: dict[str, Any] = {}
        self._model: ModelReference | None = None
        self._was_recorded = False
        self._key: RunKey | None = None

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Verify the history, and refuse a version that does not exist before any work.

        Raises:
            InputError: If `tracking.registered_model` is wrong, or the run holds two audits.
        """
        self._names = AuditNames.of(pipeline)
        audit, made = AuditCatalog(catalog, self._names), self._names.made_by(pipeline)
        run = mlflow.active_run()
        self._run_id = run.info.run_id if run else ""
        self._outputs, self._model, self._was_recorded, self._key = {}, None, False, None
        if not _records_audit(made, audit):
            return
        self._key = RunKey(audit, lambda: _task_class(audit))
        log = audit.log
        for problem in AuditHistory(log).verify():
            logger.warning("AUDIT HISTORY %s: %s It cannot be trusted as it is.", log.name, problem)
        if (named := read_tracking(audit).registered_model) is not None:
            self._model = ModelReference(named.name, named.version, named.alias)
        if self._model is not None and run is not None:
            version = self._find_version(self._model, run_id="")
            if version is not None:
                # An alias may point elsewhere by the end of the audit.
                self._model = ModelReference(version.name, version=version.version)
        if self._model is None and "checkpoint_manifest" not in made:
            # It goes on with an audit that is there already, of the version that one was of.
            self._model = _model_of_last(log)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Keep what the record needs, and say early where training data was exchanged."""
        outputs = self._names.own(outputs)
        if self._key is not None:
            self._key.see(outputs)
        self._outputs |= {name: outputs[name] for name in _KEPT if name in outputs}
        if "trained_data_digest" in outputs and self._run_id:
            MlflowClient().set_tag(self._run_id, TRAINING_DIGEST, outputs["trained_data_digest"])
        if "data_digests" in outputs and self._model is not None and self._run_id:
            version = self._find_version(self._model, run_id="")
            if version is not None:
                version.warn_of_mismatch(outputs["data_digests"]["training"]["digest"])

    @hook_impl(wrapper=True)
    def after_pipeline_run(
        self, pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Record the audit.

        Raises:
            InputError: If its files cannot be written: an audit that no history has did not pass.
        """
        unwritten = self._record(pipeline, catalog, error=None)
        # First let kedro-mlflow end the run, and the summary say what was found.
        result = yield
        if unwritten is not None:
            log = AuditCatalog(catalog, self._names).log
            lost = InputError(
                f"The audit's reports are written, but not its record: {unwritten}. Make room, or "
                f"let {log.parent} be written to, and run the audit again."
            )
            show_readable_error(lost)
            raise lost from unwritten
        return result

    @hook_impl(wrapper=True)
    def on_pipeline_error(
        self, error: Exception, pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Record the audit where its figures are there: a failed gate ends a run this way."""
        self._record(pipeline, catalog, error=error)
        return (yield)

    def _record(
        self, pipeline: Pipeline, catalog: DataCatalog, *, error: Exception | None
    ) -> OSError | None:
        """Keep the audit for MLflow, and append it to the history: `TrackingServerHook` sends it.

        Returns:
            What kept files from being written, if anything did.
        """
        judged = any(name in self._outputs for name in _JUDGED)
        audit, made = AuditCatalog(catalog, self._names), self._names.made_by(pipeline)
        if self._was_recorded or not judged or not _records_audit(made, audit):
            return None
        self._was_recorded = True
        try:
            record = self._make_record(made, audit, error=error)
            log, version = audit.log, None
            if self._run_id:
                _tag_device(self._run_id, audit)
                if TRACKED.waiting is None:
                    TRACKED.waiting = WaitingRun.begin(log.parent / FOLDER)
                # First, so that a kill at any later moment leaves it.
                TRACKED.waiting.keep_audit(record.to_json(), log=log.name)
                with suppress(InputError):
                    # Gone since the audit began: sending says so.
                    version = self._find_version(record.model, run_id=record.run_id)
            append_row(log, record, version)
        except OSError as unwritten:
            logger.error("The audit is complete, but not in its history: %s", unwritten)
            return unwritten
        except Exception:
            # The audit itself is written: its record must not turn it into a failure.
            logger.exception("The audit is complete, but could not be recorded.")
        return None

    def _make_record(
        self, made: Collection[str], audit: AuditCatalog, *, error: Exception | None
    ) -> AuditRecord:
        summary = self._output_or_file("audit_summary", audit)
        manifest = self._output_or_file("checkpoint_manifest", audit)
        digests = self._output_or_file("data_digests", audit) or {}
        status, findings = _verdict(
            self._outputs.get("gate_report"),
            judges="gate_report" in made,
            failed=error is not None,
        )
        trust = summary["trust"]["status"], summary["trust"]["text"]
        if "verification_summary" in self._outputs:
            figure = Retraining(self._outputs["verification_summary"]).figure()
            trust = figure.status, figure.text
        return AuditRecord(
            run_id=TRACKED.run_id if self._run_id else "",
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            status=status,
            findings=findings,
            task=_task_class(audit),
            method=summary["method"],
            trust_status=trust[0],
            trust_text=trust[1],
            training_examples=summary["training_examples"],
            queries=summary["queries"],
            relabel=summary["actions"]["relabel"],
            check=summary["actions"]["check"],
            attributed_share=summary["attributed_share"],
            training_data=DataRecord.of_digests(digests.get("training")),
            query_data=DataRecord.of_digests(digests.get("queries")),
            checkpoints=() if manifest is None else CheckpointFile.of_manifest(manifest),
            report_sha256=_file_digest(getattr(audit["cleaning_report"], "_filepath", None)),
            model=self._model,
            key=self._key.parts() if self._key is not None else None,
        )

    def _output_or_file(self, name: str, audit: AuditCatalog) -> Any:
        if name in self._outputs:
            return self._outputs[name]
        return audit.load(name) if audit.exists(name) else None

    def _find_version(
        self, reference: ModelReference | None, *, run_id: str
    ) -> AuditedVersion | None:
        """Return the version where the server tells of it; sending finds it otherwise."""
        if TRACKED.away is not None:
            return None
        try:
            return AuditedVersion.find(TRACKED.client(), reference, run_id=run_id)
        except InputError:
            raise
        except Exception as error:
            logger.warning("The registered model was not found yet: %s", reason_of(error))
            return None


def _records_audit(made: Collection[str], audit: AuditCatalog) -> bool:
    return "audit_log" in audit and any(name in made for name in _JUDGED)


def _model_of_last(log: Path) -> ModelReference | None:
    rows = AuditHistory(log).read()
    if not rows or not rows[-1]["model_name"] or not rows[-1]["model_version"]:
        return None
    return ModelReference(rows[-1]["model_name"], version=rows[-1]["model_version"])


def _verdict(
    gate: Mapping[str, Any] | None, *, judges: bool, failed: bool
) -> tuple[str, tuple[str, ...]]:
    """Return how the audit ended, and what the gate found wrong.

    Args:
        gate: The gate's report, where there is one.
        judges: Whether the pipeline has a gate.
        failed: Whether the run ended with an error, which a failed gate is, too.
    """
    if gate is None:
        return ("error" if judges or failed else "unjudged"), ()
    found = tuple(
        f"{check['status']}: {check.get('message') or check.get('name') or check.get('metric')}"
        for check in gate.get("checks", [])
        if check.get("status") in {"fail", "inconclusive", "warn"}
    )
    outcome = str(gate["outcome"])
    return ("error" if failed and outcome in {"pass", "warn"} else outcome), found


def _task_class(audit: AuditCatalog) -> str:
    task = audit.load("params:task")
    return str(task["class"] if isinstance(task, Mapping) else task.class_path)


def _tag_device(run_id: str, audit: AuditCatalog) -> None:
    parameters = audit.load("params:attribution")
    requested = (
        parameters.get("device", "auto") if isinstance(parameters, Mapping) else parameters.device
    )
    try:
        for name, value in device_tag(requested).items():
            MlflowClient().set_tag(run_id, name, value)
    except Exception as error:
        logger.warning("MLflow was not told of the device: %s", reason_of(error))


def _file_digest(path: Any) -> str | None:
    if path is None or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
