"""The parameters `tracking`, for hooks: a run need not have a node that takes them."""

from sourcetrace.namespace import AuditCatalog
from sourcetrace.parameters import TrackingParameters
from sourcetrace.validation import validated


def read_tracking(audit: AuditCatalog) -> TrackingParameters:
    """Return the parameters of an audit; the defaults where a project has none.

    Raises:
        InputError: If they are wrong.
    """
    content = audit.load("params:tracking") if "params:tracking" in audit else {}
    return validated(
        TrackingParameters,
        content or {},
        name="tracking",
        before="tracking: expected registered_model (null, or {name: …, version: … or alias: …}), "
        "pending (a list of {name: …, checkpoints: …}) and openlineage (null, or {path: …, "
        "namespace: …}). ",
    )
