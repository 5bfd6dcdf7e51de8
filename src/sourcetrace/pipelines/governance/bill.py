"""The bill of materials, where the extra that makes it is installed."""

from kedro.pipeline import Pipeline, node

from sourcetrace.integrations.ml_bom import make_ml_bom


def create_bill() -> Pipeline:
    """Return the node that makes it."""
    return Pipeline([node(make_ml_bom, inputs="audit_facts", outputs="ml_bom", name="make_ml_bom")])
