"""MLflow's server as a place that checkpoints are read from."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from sourcetrace.errors import InputError
from sourcetrace.redaction import hide_credentials
from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.tracked import TRACKED


def server_address() -> str:
    """Return the address of the project's server; MLflow's own where no project says one.

    While a run goes on, MLflow's own is the run's store, which knows no other runs.
    """
    return TRACKED.address or str(mlflow.get_tracking_uri())


def repository_of(location: str) -> ArtifactRepository:
    """Return the store of artifacts at a location that the server named."""
    address = server_address()
    return get_artifact_repository(location, address, TRACKED.registry or address)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Say in a paragraph what went wrong where the server, or its store, is asked.

    Args:
        what: The address of the checkpoints.

    Raises:
        InputError: In place of MLflow's errors, and of those of the libraries below it.
    """
    server = hide_credentials(server_address())
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"checkpoints: {what} lies in a store that MLflow needs another library for: "
            f"{error}. Install it; for S3 it is boto3."
        ) from error
    except Exception as error:
        if is_outage(error):
            raise InputError(
                f"checkpoints: {what} cannot be read: MLflow's server {server} is away "
                f"({reason_of(error)}). Start the audit again when it is there, or "
                "set checkpoints.path to a folder."
            ) from error
        if not isinstance(error, MlflowException | SQLAlchemyError | OSError | ValueError):
            # The store's own library; what is wrong with an S3 bucket is botocore's to say.
            raise InputError(f"checkpoints: {what} cannot be read: {reason_of(error)}.") from error
        raise InputError(
            f"checkpoints: {what} cannot be read from MLflow at {server}: {reason_of(error)}. "
            "Correct the address, or server.mlflow_tracking_uri in conf/<environment>/mlflow.yml."
        ) from error
