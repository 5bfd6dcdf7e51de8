"""Large weights are read from their checkpoint once, and stay what they were."""

import pytest
import torch

from sourcetrace.pipelines.set_up import weights
from sourcetrace.pipelines.set_up.weights import LargeWeights


@pytest.mark.parametrize(("kept", "reads"), [(7, 1), (8, 3)])
def test_large_weights_are_read_once(tmp_path, monkeypatch, kept, reads):
    monkeypatch.setattr(weights, "KEPT_BYTES", kept)
    asked = []

    def read(name):
        asked.append(name)
        # Two names of one tensor, as of a tied layer.
        return dict.fromkeys(("one", "other"), torch.tensor([float(len(name))]))

    load = LargeWeights(read, tmp_path / "here")
    for _ in range(3):
        assert {key: float(one) for key, one in load("four").items()} == {"one": 4, "other": 4}
    assert asked == ["four"] * reads
    assert float(load("five5")["one"]) == 5
    assert float(load("four")["one"]) == 4
    del load
    assert not list(tmp_path.glob("here/*"))
