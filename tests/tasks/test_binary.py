"""Binary and multi-label tasks: forms of targets, masks, and their losses."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads

from sourcetrace.errors import InputError
from sourcetrace.tasks import BinaryTask, MultiLabelTask
from sourcetrace.tasks.losses import BinaryCrossEntropy, BinaryFocalLoss
from tests.tasks.losses.checks import check_curvature, task_values
from tests.tiny import assert_close, seeded

with seeded(53):
    LOGITS = torch.randn(5, dtype=torch.float64)
    MANY = torch.randn(3, 4, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 0, 1])
SEVERAL = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 1]])


class Weighted(BinaryTask):
    loss = BinaryCrossEntropy(pos_weight=3.0, label_smoothing=0.2)
    label_names = ("stays", "leaves")


class Focal(BinaryTask):
    loss = BinaryFocalLoss()


@pytest.mark.parametrize("task", [BinaryTask(), Weighted(), Focal()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bool])
def test_logits_and_labels_come_in_many_forms(task, dtype):
    expected = task_values(task, LOGITS, (None, LABELS.double()))
    for logits in (LOGITS, LOGITS.unsqueeze(1)):
        for labels in (LABELS.to(dtype), LABELS.to(dtype).unsqueeze(1)):
            assert_close(task_values(task, logits, (None, labels)), expected, tolerance=1e-14)


def test_the_margin_is_the_log_odds_of_the_label():
    p = LOGITS.sigmoid()
    given = torch.where(LABELS == 1, p, 1 - p)
    measured = BinaryTask().measurement(LOGITS, (None, LABELS))
    assert_close(measured, given.log() - (1 - given).log(), tolerance=1e-12)
    assert BinaryTask.measurement_higher_is_better
    described = Weighted().describe(LOGITS, (None, LABELS))
    assert described["given_label_probability"] == pytest.approx(given.tolist())
    assert described["predicted_label"] == [("stays", "leaves")[z > 0] for z in LOGITS]


@pytest.mark.parametrize("task", [BinaryTask(), Weighted()])
def test_the_second_moment_is_the_hessian(task):
    check_curvature(task, LOGITS, (None, LABELS))
    check_curvature(task, LOGITS.unsqueeze(1), (None, LABELS * 0.7))


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1, -1]), r"Example 2 .* target -1; .* \(y \+ 1\) / 2"),
        (torch.zeros(3), torch.tensor([0, torch.nan, 1]), r"Example 1 .* target nan"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), r"shape \[3, 2\] and the targets \[3\]"),
        (torch.zeros(3), torch.zeros(1), r"shape \[3\] and the targets \[1\]"),
    ],
)
def test_what_is_not_0_or_1_is_refused(logits, targets, message):
    with pytest.raises(InputError, match=message):
        BinaryTask().train_loss(logits, (None, targets))


@pytest.mark.parametrize("unknown", [-1.0, torch.nan])
@pytest.mark.parametrize("loss", [BinaryCrossEntropy(pos_weight=(1, 2, 3, 4)), BinaryFocalLoss()])
def test_unknown_labels_count_nowhere(unknown, loss):
    task = MultiLabelTask()
    task.loss = loss
    targets = SEVERAL.double()
    targets[0, 2] = targets[1, :3] = targets[2] = unknown
    values = loss.value(MANY, SEVERAL.double())
    expected = [float(values[0, [0, 1, 3]].mean()), float(values[1, 3]), 0]
    found = task.train_loss(MANY, (None, targets))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(task.measurement(MANY, (None, targets)), -found)
    if loss.exact:
        check_curvature(task, MANY, (None, targets))


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 4), ("sum", 1), (8.0, 8)])
def test_labels_are_reduced_as_asked(reduction, divisor):
    class Task(MultiLabelTask):
        pass

    Task.reduction = reduction
    losses = F.binary_cross_entropy_with_logits(MANY, SEVERAL.double(), reduction="none")
    found = Task().train_loss(MANY, (None, SEVERAL))
    assert_close(found, losses.sum(1) / divisor, tolerance=1e-12)
    check_curvature(Task(), MANY, (None, SEVERAL))


def test_a_wrong_label_of_several_is_refused():
    with pytest.raises(InputError, match=r"Example 1 of the batch .* target 2"):
        MultiLabelTask().train_loss(MANY, (None, SEVERAL + torch.tensor([[0], [1], [0]])))


def test_describes_the_labels_that_are_predicted():
    class Named(MultiLabelTask):
        label_names = ("sky", "sea")

    logits = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [-1.0, -2.0]])
    assert Named().describe(logits, None) == {"predicted_label": ["sky, sea", "sea", "none"]}
    assert MultiLabelTask().describe(logits, None)["predicted_label"][0] == "0, 1"
