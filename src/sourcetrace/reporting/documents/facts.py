"""What both formats say of an audit, and the limits that both state."""

from dataclasses import dataclass

from sourcetrace.audit.gate.audit_result import AuditResult
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.formats import format_noun, format_share
from sourcetrace.parameters import RegisteredModelParameters

SOURCE_PAPER = "https://arxiv.org/abs/2405.12186"
"""Bae et al. 2024, the method Source."""


@dataclass(frozen=True)
class AuditFacts:
    """An audit as it is handed to reviewers; nothing in it changes from one run to the next.

    Attributes:
        result: What `audit.json` says.
        gate: What `gate.json` says.
        trust_high: Upper end of the trust figure's 95 % interval; None where not verified.
        revision: Of the project's code; None outside a git repository.
        model: The audited version in MLflow's registry, where the parameters name one.
    """

    result: AuditResult
    gate: GateReport
    trust_high: float | None = None
    revision: CodeRevision | None = None
    model: RegisteredModelParameters | None = None

    @property
    def model_name(self) -> str:
        """The registered model's name, or the task's class where none is named."""
        return self.model.name if self.model else self.result.task.rsplit(".", 1)[-1]

    @property
    def attributed_share(self) -> float | None:
        """Share of the model's parameters with attribution."""
        return self.result.metrics.get("attributed_share")

    @property
    def suspects(self) -> int:
        """Number of examples with a suggested action."""
        return self.result.actions["relabel"] + self.result.actions["check"]

    def limits(self) -> list[str]:
        """Return what the audit cannot say, a sentence or two each."""
        limits = [
            "A suspect is an example that the scores hold responsible for errors on the queries: "
            "no proven error. An example that is no suspect is not proven sound.",
            f"Harm was measured on {format_noun(self.result.counts.queries, 'query', 'queries')}. "
            "What the data does to other inputs is not seen.",
            "A score predicts what removing one example would change. What removing many "
            "together would change is not their sum for certain.",
            "The training run is known from "
            f"{format_noun(self.result.counts.checkpoints, 'checkpoint')}; what happened between "
            "them is approximated.",
        ]
        if self.result.trust.status != "Verified":
            limits.append(f"The scores are not confirmed by retraining: {self.result.trust.text}")
        share = self.attributed_share
        if share is not None and share < 1:
            limits.append(
                f"{format_share(1 - share)} of the model's parameters carry no attribution. What "
                "the data did to them is not in the scores."
            )
        return [
            *limits,
            "How the data was collected, whom it represents, whether it may be used, and whether "
            "the model treats groups of people alike was not examined.",
            "Whether the audited data is what trained the model is known only where training "
            "recorded its digest: see the tag lineage.data_matches of the MLflow run.",
        ]
