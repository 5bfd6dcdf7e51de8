"""What is kept of every layer, in a safetensors file each, read a layer at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from kedro.io import AbstractDataset

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.core.curvature.covariance import CovarianceSums
from sourcetrace.datasets.tensor_file import LayersOfFile

_Data = TypeVar("_Data")
_Covariances = Mapping[str, Mapping[str, CovarianceSums]]


class _LayersDataset(AbstractDataset[_Data, _Data]):
    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class CovariancesDataset(_LayersDataset[_Covariances]):
    """The covariance sums of every evaluation point: point id -> layer name -> `CovarianceSums`.

    YAML:
        covariances:
          type: sourcetrace.datasets.CovariancesDataset
          filepath: data/04_feature/covariances.safetensors

    Python:
        CovariancesDataset(filepath="covariances.safetensors").save(covariances)
    """

    def _save(self, data: _Covariances) -> None:
        # A point's name has a slash of its own where there are several runs.
        named = {quote(point, safe=""): layers for point, layers in data.items()}
        LayersOfFile.write(self._filepath, named)

    def _load(self) -> _Covariances:
        found = LayersOfFile.by_prefix(self._filepath, CovarianceSums)
        return {unquote(point): layers for point, layers in found.items()}


class CurvatureDataset(_LayersDataset[Sequence[SegmentCurvature]]):
    """The EK-FAC curvature: a list of segments, each layer name -> `CurvatureBlock`.

    YAML:
        curvature:
          type: sourcetrace.datasets.CurvatureDataset
          filepath: data/06_models/curvature.safetensors

    Python:
        CurvatureDataset(filepath="curvature.safetensors").save(segments)
    """

    def _save(self, data: Sequence[SegmentCurvature]) -> None:
        numbered = {str(number): segment for number, segment in enumerate(data)}
        LayersOfFile.write(self._filepath, numbered)

    def _load(self) -> Sequence[SegmentCurvature]:
        segments = LayersOfFile.by_prefix(self._filepath, CurvatureBlock)
        return [segments[number] for number in sorted(segments, key=int)]
