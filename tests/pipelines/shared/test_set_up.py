"""What waits on disk comes back as if it had not waited."""

from types import SimpleNamespace

import torch

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.pipelines.shared.set_up import AuditSetup


def test_layers_come_back_on_the_device_of_the_engine(tmp_path):
    # The one other device that every machine has.
    engine = SimpleNamespace(device=torch.device("meta"))
    setup = SimpleNamespace(engine=engine, cache=SimpleNamespace(folder=tmp_path))
    aside = AuditSetup.layers_of(setup, CurvatureBlock, SimpleNamespace(disk=1))
    aside["a"] = CurvatureBlock(EigenBasis(None, torch.eye(2)[None]), torch.ones(1, 2, 3))
    assert {one.device.type for one in aside["a"].tensors().values()} == {"meta"}
