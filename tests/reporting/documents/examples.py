"""An audit's facts, and how to change them."""

from sourcetrace.audit.gate.audit_result import (
    AuditCounts,
    AuditedCheckpoint,
    AuditedData,
    AuditTrust,
)
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.documents.facts import AuditFacts
from tests.audit.gate.examples import audit_result, one_of_each

REVISION = CodeRevision("c" * 40, dirty=False)
UNVERIFIED = AuditTrust(status="Not verified", text="nobody did.", lds=None, lds_low=None)


def audit_facts(*, gate=None, trust_high=0.6, revision=REVISION, model=None, **changes):
    """Return the facts of a verified audit; `changes` are those of its result."""
    values = {
        "task": "churn.ChurnTask",
        "data": {
            "training": AuditedData(digest="st1-" + "1" * 32, rows=100),
            "queries": AuditedData(digest="st1-" + "2" * 32, rows=10),
        },
        "checkpoints": tuple(
            AuditedCheckpoint(id=f"step:{step}.pt", step=step, sha256=f"{step:064x}")
            for step in (10, 2000)
        ),
        "counts": AuditCounts(training_examples=100, queries=10, runs=1, checkpoints=2, segments=1),
        "actions": {"remove": 0, "relabel": 3, "review": 5, "keep": 92},
        "trust": AuditTrust(status="Verified", text="retrained.", lds=0.5, lds_low=0.4),
        "metrics": {"harmful_share": 0.2, "attributed_share": 1.0, "trust_lds": 0.5},
        "versions": {"sourcetrace": "0.1.0", "python": "3.12.1", "torch": "2.13.0+cpu"},
        "suspects": ("secret-customer-7",),
    }
    return AuditFacts(
        result=audit_result(**{**values, **changes}),
        gate=gate or one_of_each(),
        trust_high=trust_high,
        revision=revision,
        model=None if model is None else RegisteredModelParameters(**model),
    )
