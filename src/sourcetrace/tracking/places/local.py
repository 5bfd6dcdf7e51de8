"""The one door through which checkpoints come: whatever an address means, made a path here."""

import os
from pathlib import Path

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.places.addresses import is_local, local_path, rates_file, scheme_of
from sourcetrace.checkpoints.places.fetched import fetch
from sourcetrace.checkpoints.places.filesystems import FileSystemSource
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.parameters import CheckpointParameters


def fetch_checkpoints(parameters: CheckpointParameters) -> CheckpointParameters:
    """Return the parameters with paths on this machine, once what lies elsewhere is fetched.

    Raises:
        InputError: If an address is wrong, or what lies there cannot be fetched.
    """
    path = parameters.path
    local = (
        str(_local(path, parameters))
        if isinstance(path, str)
        else tuple(str(_local(one, parameters)) for one in path)
    )
    return parameters.model_copy(update={"path": local, "learning_rates": _local_rates(parameters)})


def open_local(parameters: CheckpointParameters) -> CheckpointFolder:
    """Return the checkpoints of parameters with local paths.

    A folder is one; a file, or several paths in the order of their steps, are one training run.
    """
    stages, rates = parameters.stages, rates_file(parameters.learning_rates, None)
    stated = StatedParameters(
        parameters.optimizer, parameters.step_from, accept=parameters.accept or ()
    )
    if isinstance(parameters.path, str) and not os.path.isfile(parameters.path):
        return CheckpointFolder(
            Path(parameters.path), stages, rates, stated, at_most=parameters.at_most
        )
    paths = [parameters.path] if isinstance(parameters.path, str) else parameters.path
    listed = [Path(one).absolute() for one in paths]
    above = Path(os.path.commonpath([one.parent for one in listed]))
    return CheckpointFolder(above, stages, rates, stated, listed, parameters.at_most)


def _local(address: str, parameters: CheckpointParameters) -> Path:
    if is_local(address):
        return local_path(address)
    # Here: what reads files of this machine needs no MLflow, whose import takes a second.
    from sourcetrace.tracking.places.mlflow_address import SCHEMES, mlflow_checkpoints

    if scheme_of(address) in SCHEMES:
        return mlflow_checkpoints(address, parameters.cache)
    return fetch(_file_system(address, parameters), parameters.cache)


def _local_rates(parameters: CheckpointParameters) -> str | None:
    address = parameters.learning_rates
    target = rates_file(address, parameters.cache)
    if address is None or target is None:
        return None
    if is_local(address):
        return str(target)
    from sourcetrace.tracking.places.logged_rates import fetch_rates
    from sourcetrace.tracking.places.mlflow_address import SCHEMES

    if scheme_of(address) in SCHEMES:
        fetch_rates(address, target)
    else:
        fetch(_file_system(address, parameters, any_name=True), parameters.cache)
    return str(target)


def _file_system(
    address: str, parameters: CheckpointParameters, *, any_name: bool = False
) -> FileSystemSource:
    return FileSystemSource(address, parameters.storage_options or {}, any_name=any_name)
