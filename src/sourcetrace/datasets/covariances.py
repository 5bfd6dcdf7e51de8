"""The covariance sums of every evaluation point, in one safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from kedro.io import AbstractDataset

from sourcetrace.core.curvature.covariance import CovarianceSums
from sourcetrace.datasets.tensor_file import TensorFile

_Covariances = Mapping[str, Mapping[str, CovarianceSums]]


class CovariancesDataset(AbstractDataset[_Covariances, _Covariances]):
    """Point id -> layer name -> `CovarianceSums`.

    YAML:
        covariances:
          type: sourcetrace.datasets.CovariancesDataset
          filepath: data/04_feature/covariances.safetensors

    Python:
        CovariancesDataset(filepath="covariances.safetensors").save(covariances)
    """

    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    def _save(self, data: _Covariances) -> None:
        tensors = {}
        for point, layers in data.items():
            for layer, sums in layers.items():
                # A point's name has a slash of its own where there are several runs.
                key = f"{quote(point, safe='')}/{layer}"
                tensors[f"{key}/activation"] = sums.activation
                tensors[f"{key}/pseudo_gradient"] = sums.pseudo_gradient
                tensors[f"{key}/examples"] = torch.tensor(sums.examples)
        TensorFile(self._filepath).write(tensors)

    def _load(self) -> _Covariances:
        tensors = TensorFile(self._filepath).read()
        result: dict[str, dict[str, CovarianceSums]] = {}
        for key in (key.removesuffix("/examples") for key in tensors if key.endswith("/examples")):
            point, layer = key.split("/", 1)
            result.setdefault(unquote(point), {})[layer] = CovarianceSums(
                tensors[f"{key}/activation"],
                tensors[f"{key}/pseudo_gradient"],
                int(tensors[f"{key}/examples"]),
            )
        return result

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
