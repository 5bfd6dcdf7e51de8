"""What both formats say of an audit, the limits that both state, and the section of a model card.

Its headings start one level down, so that it stands under the card's own title. It holds counts and
digests, and no row of the data.
"""

from dataclasses import dataclass

from sourcetrace.audit.gate.audit_result import AuditResult
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.templating import template

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
        environment: The `--env` of its command; empty where it had none.
        model: The audited version in MLflow's registry, where the parameters name one.
    """

    result: AuditResult
    gate: GateReport
    trust_high: float | None = None
    revision: CodeRevision | None = None
    environment: str = ""
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
        return sum(self.result.actions.values()) - self.result.actions["keep"]

    def limits(self) -> list[str]:
        """Return what the audit cannot say, a sentence or two each."""
        return template("limits.txt.j2", autoescape=False).render(facts=self).splitlines()


def render_model_card(facts: AuditFacts) -> str:
    """Return the section; the same audit gives the same text."""
    paper = SOURCE_PAPER if METHODS[facts.result.method].follows_optimizer else None
    return template("model_card.md.j2", autoescape=False).render(
        facts=facts, result=facts.result, paper=paper
    )
