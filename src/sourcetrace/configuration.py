"""Catalog entries may use parameters: `${parameter:checkpoints.path}`.

What a user sets is in the parameters alone, `--params` included; the catalog only says where
it goes.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from sourcetrace.errors import InputError
from sourcetrace.formats import format_known

LOADER_ARGUMENTS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment states only what differs from the base.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
}


def read_parameters(file: Path) -> dict[str, Any]:
    """Return the nested parameters of a YAML file.

    Raises:
        InputError: If it holds none.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:  # of the file, of YAML or of OmegaConf
        raise InputError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected parameters by name, as in conf/base.")
    return dict(content)


def refuse_unknown_environment(configuration: Path, environment: str | None) -> None:
    """Refuse an environment that has no folder; a configuration elsewhere is not looked at.

    Raises:
        InputError: If it has none.
    """
    if environment and configuration.is_dir() and not (configuration / environment).is_dir():
        known = [one.name for one in configuration.iterdir() if one.is_dir()]
        raise InputError(
            f"There is no environment {environment}: expected the name of a folder in "
            f"{configuration.name}. {format_known(environment, known)}."
        )


def merge_parameters(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested parameters; later ones change earlier ones, as an environment's do."""
    merged: Any = OmegaConf.to_container(OmegaConf.merge(*map(dict, parts)))
    return dict(merged)


class ParameterAwareConfigLoader(OmegaConfigLoader):
    """Kedro's loader with one more resolver, `parameter`.

    Parameters are read once: the catalog asks for them more than a hundred times.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Kedro's own resolvers use the same call, which omegaconf 2.4 deprecates.
        OmegaConf.register_new_resolver("parameter", self._parameter, replace=True)

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        if key == "parameters" and key not in self.data:
            self[key] = found
        return found

    @cached_property
    def _parameters(self) -> Any:
        return OmegaConf.create(self["parameters"])

    def _parameter(self, key: str) -> Any:
        return OmegaConf.select(self._parameters, key)
