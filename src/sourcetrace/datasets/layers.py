"""The curvature, in a safetensors file that is read a layer at a time."""

from collections.abc import Sequence
from pathlib import Path

from kedro.io import AbstractDataset

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.datasets.optional import InFile
from sourcetrace.datasets.tensor_file import LayersOfFile


class CurvatureDataset(
    InFile, AbstractDataset[Sequence[SegmentCurvature], Sequence[SegmentCurvature]]
):
    """The EK-FAC curvature: a list of segments, each layer name -> `CurvatureBlock`.

    YAML:
        curvature:
          type: sourcetrace.datasets.CurvatureDataset
          filepath: data/06_models/curvature.safetensors

    Python:
        CurvatureDataset(filepath="curvature.safetensors").save(segments)
    """

    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    def _save(self, data: Sequence[SegmentCurvature]) -> None:
        numbered = {str(number): segment for number, segment in enumerate(data)}
        LayersOfFile.write(self._filepath, numbered)

    def _load(self) -> Sequence[SegmentCurvature]:
        segments = LayersOfFile.by_prefix(self._filepath, CurvatureBlock)
        return [segments[number] for number in sorted(segments, key=int)]
