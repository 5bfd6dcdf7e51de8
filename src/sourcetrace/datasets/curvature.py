"""The EK-FAC curvature of every segment, in one safetensors file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis, SegmentCurvature
from sourcetrace.datasets.tensor_file import TensorFile


class CurvatureDataset(AbstractDataset[Sequence[SegmentCurvature], Sequence[SegmentCurvature]]):
    """A list of segments, each layer name -> `CurvatureBlock`.

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
        tensors = {}
        for number, segment in enumerate(data):
            for layer, block in segment.items():
                key = f"{number}/{layer}"
                # A basis that is the identity is left out.
                if block.basis.inputs is not None:
                    tensors[f"{key}/input_basis"] = block.basis.inputs
                if block.basis.outputs is not None:
                    tensors[f"{key}/output_basis"] = block.basis.outputs
                tensors[f"{key}/eigenvalues"] = block.eigenvalues
                if block.preconditioner is not None:
                    tensors[f"{key}/preconditioner"] = block.preconditioner
        TensorFile(self._filepath).write(tensors)

    def _load(self) -> Sequence[SegmentCurvature]:
        tensors = TensorFile(self._filepath).read()
        segments: dict[int, dict[str, CurvatureBlock]] = {}
        suffix = "/eigenvalues"
        for key in (key.removesuffix(suffix) for key in tensors if key.endswith(suffix)):
            number, layer = key.split("/", 1)
            basis = EigenBasis(
                tensors.get(f"{key}/input_basis"), tensors.get(f"{key}/output_basis")
            )
            block = CurvatureBlock(
                basis, tensors[f"{key}/eigenvalues"], tensors.get(f"{key}/preconditioner")
            )
            segments.setdefault(int(number), {})[layer] = block
        return [segments[number] for number in sorted(segments)]

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
