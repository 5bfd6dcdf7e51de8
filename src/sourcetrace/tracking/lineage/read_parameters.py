"""The parameters `tracking`, for hooks: a run need not have a node that takes them."""

from pydantic import ValidationError

from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditCatalog
from sourcetrace.parameters import TrackingParameters


def read_tracking(audit: AuditCatalog) -> TrackingParameters:
    """Return the parameters of an audit; the defaults where a project has none.

    Raises:
        InputError: If they are wrong.
    """
    content = audit.load("params:tracking") if "params:tracking" in audit else {}
    try:
        return TrackingParameters.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("tracking", *first["loc"])))
        raise InputError(
            "tracking: expected registered_model (null, or {name: …, version: … or alias: …}), "
            "pending (a list of {name: …, checkpoints: …}) and openlineage (null, or {path: …, "
            f"namespace: …}}). {where}: {first['msg']}."
        ) from error
