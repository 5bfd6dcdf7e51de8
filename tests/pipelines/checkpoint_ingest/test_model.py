"""A model that an audit cannot look into is refused as it is built."""

import pytest
import torch
from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.model import build_model
from sourcetrace.tasks import ClassificationTask


def failing():
    raise KeyError("hidden")


def on_meta():
    with torch.device("meta"):
        return nn.Linear(2, 3)


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: (nn.Linear(2, 3), None), "returned tuple; expected a torch.nn.Module"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), r"lazy modules.* \(0\.weight, 0\.bias\)"),
        (lambda: nn.Sequential(nn.LazyBatchNorm1d()), "lazy modules"),
        (lambda: torch.jit.script(nn.Linear(2, 3)), "^The model is a module of TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(2, 3))), "^0 is a module of TorchSc"),
        (on_meta, r"on the device 'meta' \(weight, bias\)"),
        (failing, r"^task\.build_model failed: KeyError"),
    ],
)
def test_what_cannot_be_audited_is_refused(build, message):
    class Task(ClassificationTask):
        def build_model(self):
            return build()

    with pytest.raises(InputError, match=message):
        build_model(Task())
