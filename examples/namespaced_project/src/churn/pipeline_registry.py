"""The team's training and, under a namespace, the audit of it."""

from kedro.pipeline import Pipeline, node

from churn.training import collect_customers, train_model
from sourcetrace.pipelines.audit import create_audit, create_status, create_verification


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name."""
    training = Pipeline(
        [
            node(collect_customers, "params:training", "customers", name="collect_customers"),
            node(
                train_model,
                ["customers", "params:training"],
                "churn_checkpoints",
                name="train_model",
            ),
        ]
    )
    audit = create_audit("churn_audit", inputs={"checkpoints": "churn_checkpoints"})
    return {
        "training": training,
        "audit": audit,
        "verification": create_verification("churn_audit"),
        "status": create_status("churn_audit"),
        # The audit starts once the checkpoints are there.
        "__default__": training + audit,
    }
