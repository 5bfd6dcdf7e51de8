"""Watches a run, and records the audit in it when it ends, well or not."""

import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from mlflow.tracking import MlflowClient

from sourcetrace.audit.identity.audit_key import AuditKey, RunKey
from sourcetrace.errors import InputError
from sourcetrace.files import file_digest
from sourcetrace.hooks.terminal import show_readable_error
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.parameters import AttributionParameters, RegisteredModelParameters, TaskParameters
from sourcetrace.reporting.records import Trust
from sourcetrace.reporting.trust import Retraining
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.model_version import TRAINING_DIGEST, AuditedVersion
from sourcetrace.tracking.lineage.publish import append_row
from sourcetrace.tracking.lineage.read_parameters import read_tracking
from sourcetrace.tracking.lineage.record import AuditRecord, CheckpointFile, DataRecord
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
        self._model: RegisteredModelParameters | None = None
        self._audit: AuditCatalog | None = None
        self._judges = False

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Verify the history; refuse limits, or a version, that do not exist before any work.

        Raises:
            InputError: If `tracking.registered_model` or the gate's baseline is wrong, or the run
                holds two audits.
        """
        self._names = AuditNames.of(pipeline)
        audit, made = AuditCatalog(catalog, self._names), self._names.made_by(pipeline)
        run = mlflow.active_run()
        self._run_id = run.info.run_id if run else ""
        self._outputs, self._model = {}, None
        if "audit_log" not in audit or made.isdisjoint(_JUDGED):
            self._audit = None
            return
        self._audit, self._judges = audit, "gate_report" in made
        if self._judges:
            AuditKey.limits_of(audit.parameters())
        self._key = RunKey(audit, lambda: _task_class(audit))
        log = audit.log
        for problem in AuditHistory(log).verify():
            logger.warning("AUDIT HISTORY %s: %s It cannot be trusted as it is.", log.name, problem)
        self._model = read_tracking(audit).registered_model
        if self._model is not None and run is not None:
            version = _find_version(self._model, run_id="")
            if version is not None:
                # An alias may point elsewhere by the end of the audit.
                self._model = RegisteredModelParameters(name=version.name, version=version.version)
        if self._model is None and "checkpoint_manifest" not in made:
            # It goes on with an audit that is there already, of the version that one was of.
            self._model = _model_of_last(log)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Keep what the record needs, and say early where training data was exchanged."""
        outputs = self._names.own(outputs)
        if self._audit is not None:
            self._key.see(outputs)
        self._outputs |= {name: outputs[name] for name in _KEPT if name in outputs}
        if "trained_data_digest" in outputs and self._run_id:
            MlflowClient().set_tag(self._run_id, TRAINING_DIGEST, outputs["trained_data_digest"])
        if "data_digests" in outputs and self._model is not None and self._run_id:
            version = _find_version(self._model, run_id="")
            if version is not None:
                version.warn_of_mismatch(outputs["data_digests"]["training"]["digest"])

    @hook_impl(wrapper=True)
    def after_pipeline_run(self) -> Generator[None, Any, Any]:
        """Record the audit.

        Raises:
            InputError: If its files cannot be written: an audit that no history has did not pass.
        """
        audit = self._audit
        unwritten = self._record(error=None)
        # First let kedro-mlflow end the run, and the summary say what was found.
        result = yield
        if audit is not None and unwritten is not None:
            lost = InputError(
                f"The audit's reports are written, but not its record: {unwritten}. Make room, or "
                f"let {audit.log.parent} be written to, and run the audit again."
            )
            show_readable_error(lost)
            raise lost from unwritten
        return result

    @hook_impl(wrapper=True)
    def on_pipeline_error(self, error: Exception) -> Generator[None, Any, Any]:
        """Record the audit where its figures are there: a failed gate ends a run this way."""
        self._record(error=error)
        return (yield)

    def _record(self, *, error: Exception | None) -> OSError | None:
        """Keep the audit for MLflow, and append it to the history: `TrackingServerHook` sends it.

        Returns:
            What kept files from being written, if anything did.
        """
        # Once: an error of another hook after the run ends it a second time.
        audit, self._audit = self._audit, None
        if audit is None or not any(name in self._outputs for name in _JUDGED):
            return None
        try:
            record = self._make_record(audit, error=error)
            log, version = audit.log, None
            if self._run_id:
                _tag_device(self._run_id, audit)
                if TRACKED.waiting is None:
                    TRACKED.waiting = WaitingRun.begin(log.parent / FOLDER)
                # First, so that a kill at any later moment leaves it.
                TRACKED.waiting.keep_audit(record.to_json(), log=log.name)
                with suppress(InputError):
                    # Gone since the audit began: sending says so.
                    version = _find_version(record.model, run_id=record.run_id)
            append_row(log, record, version)
        except OSError as unwritten:
            logger.error("The audit is complete, but not in its history: %s", unwritten)
            return unwritten
        except Exception:
            # The audit itself is written: its record must not turn it into a failure.
            logger.exception("The audit is complete, but could not be recorded.")
        return None

    def _make_record(self, audit: AuditCatalog, *, error: Exception | None) -> AuditRecord:
        summary = self._output_or_file("audit_summary", audit)
        manifest = self._output_or_file("checkpoint_manifest", audit)
        digests = self._output_or_file("data_digests", audit) or {}
        page = audit.file("cleaning_report")
        status, findings = _verdict(
            self._outputs.get("gate_report"), judges=self._judges, failed=error is not None
        )
        trust = Trust.model_validate(summary["trust"])
        if "verification_summary" in self._outputs:
            trust = Retraining(self._outputs["verification_summary"]).figure()
        return AuditRecord(
            run_id=TRACKED.run_id if self._run_id else "",
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            status=status,
            findings=findings,
            task=_task_class(audit),
            method=summary["method"],
            trust_status=trust.status,
            trust_text=trust.text,
            training_examples=summary["training_examples"],
            queries=summary["queries"],
            relabel=summary["actions"]["relabel"],
            remove=summary["actions"]["remove"],
            check=summary["actions"]["review"],
            attributed_share=summary["attributed_share"],
            training_data=DataRecord.of_digests(digests.get("training")),
            query_data=DataRecord.of_digests(digests.get("queries")),
            checkpoints=() if manifest is None else CheckpointFile.of_manifest(manifest),
            report_sha256=None if page is None else file_digest(page),
            model=self._model,
            key=self._key.parts(),
        )

    def _output_or_file(self, name: str, audit: AuditCatalog) -> Any:
        if name in self._outputs:
            return self._outputs[name]
        return audit.load(name) if audit.exists(name) else None


def _find_version(
    reference: RegisteredModelParameters | None, *, run_id: str
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


def _model_of_last(log: Path) -> RegisteredModelParameters | None:
    rows = AuditHistory(log).read()
    if not rows or not rows[-1]["model_name"] or not rows[-1]["model_version"]:
        return None
    name, number = rows[-1]["model_name"], rows[-1]["model_version"]
    return RegisteredModelParameters(name=name, version=number)


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
        f"{check['status']}: {check['message']}"
        for check in gate["checks"]
        if check["status"] in {"fail", "inconclusive", "warn"}
    )
    outcome = str(gate["outcome"])
    return ("error" if failed and outcome in {"pass", "warn"} else outcome), found


def _task_class(audit: AuditCatalog) -> str:
    return TaskParameters.model_validate(audit.load("params:task")).class_path


def _tag_device(run_id: str, audit: AuditCatalog) -> None:
    requested = AttributionParameters.model_validate(audit.load("params:attribution")).device
    try:
        if (device := _used_device(requested)) is not None:
            MlflowClient().set_tag(run_id, "sourcetrace.device", device)
    except Exception as error:
        logger.warning("MLflow was not told of the device: %s", reason_of(error))


def _used_device(requested: str) -> str | None:
    """Return the device a run computed on; None where it never imported torch.

    Args:
        requested: `attribution.device`.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    named = requested.startswith("cuda") and torch.cuda.is_available()
    return f"{requested} ({torch.cuda.get_device_name(requested)})" if named else requested
