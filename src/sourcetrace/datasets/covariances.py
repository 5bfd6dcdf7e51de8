"""The covariance sums of every evaluation point, in one safetensors file, read by the layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from kedro.io import AbstractDataset

from sourcetrace.core.curvature.covariance import CovarianceSums
from sourcetrace.datasets.tensor_file import LayersOfFile

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
        # A point's name has a slash of its own where there are several runs.
        named = {quote(point, safe=""): layers for point, layers in data.items()}
        LayersOfFile.write(self._filepath, named)

    def _load(self) -> _Covariances:
        found = LayersOfFile.by_prefix(self._filepath, CovarianceSums)
        return {unquote(point): layers for point, layers in found.items()}

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
