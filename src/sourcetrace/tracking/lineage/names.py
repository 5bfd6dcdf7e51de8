"""Names that MLflow takes for parameters and metrics."""

import hashlib
import posixpath
import re

_LONGEST = 200
"""Characters; MLflow takes 250, a data set's prefix included."""


def mlflow_name(name: str) -> str:
    """Return a name as MLflow takes it: itself, or what is left of it with a digest behind.

    Two names stay two: the digest is of the whole name.
    """
    clean = re.sub(r"[^/\w.\- :]", "_", name)
    # MLflow refuses names that, as paths, would be others.
    if posixpath.normpath(f"a/{clean}") != f"a/{clean}" or clean.startswith("/"):
        clean = re.sub(r"^\.+|/", "_", clean)
    if clean == name and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[:_LONGEST]}_{digest}"
