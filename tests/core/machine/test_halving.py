"""A batch that does not fit gives, in parts, what it would have given whole."""

import logging

import pytest
import torch

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.machine.halving import Halving
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.tiny import KeepsEverything, assert_close, gradient_source, tiny_case

EVERYTHING = torch.arange(8)
# Of the block below, examples 1, 2 and 5 alone make up the curvature.
POINT = EvaluationPoint("c1", ("c1",), EVERYTHING, torch.tensor([1, 2, 5, 7]))
BLOCK = Block(0, 7)


class FitsFew(ClassificationTask):
    """Runs out of memory above a batch size."""

    def __init__(self):
        self.most = 8
        self.sizes = []

    def forward(self, model, batch):
        self.sizes.append(len(batch[0]))
        if len(batch[0]) > self.most:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.\nMore of it.")
        return super().forward(model, batch)


def sources(most):
    caches = KeepsEverything(), KeepsEverything()
    tasks = ClassificationTask(), FitsFew()
    found = [
        gradient_source(tiny_case(), task, cache=cache)
        for task, cache in zip(tasks, caches, strict=True)
    ]
    tasks[1].most = most  # from here on: the layers were found on two examples
    return found, caches


@pytest.mark.parametrize("most", [1, 2, 3, 6])
def test_the_parts_make_up_the_whole(most):
    (whole, parted), (kept, kept_parts) = sources(most)
    expected, found = whole.extract(POINT, BLOCK), parted.extract(POINT, BLOCK)
    for name in expected.gradients:
        assert_close(found.gradients[name].dense(), expected.gradients[name].dense())
        assert_close(found.sampled[name].dense(), expected.sampled[name].dense())
        sums, whole_sums = (
            RunningCovariances(one.covariances).sums()[name] for one in (found, expected)
        )
        assert sums.examples == whole_sums.examples == 3
        assert_close(sums.activation, whole_sums.activation)
        assert_close(sums.pseudo_gradient, whole_sums.pseudo_gradient)
    for one in ("loss", "measurement", "gradient_norm"):
        assert_close(getattr(found.signals, one), getattr(expected.signals, one))
    assert found.signals.examples.tolist() == list(range(7))
    assert (
        found.signals.described["predicted_label"] == expected.signals.described["predicted_label"]
    )
    assert kept_parts.kept.keys() == kept.kept.keys()
    assert parted.passes == whole.passes


def test_queries_are_parted_too():
    case = tiny_case()
    items = list(zip(case.images, case.labels, strict=True))
    queries = Examples(items, case.ids, ClassificationTask().collate)
    (whole, parted), _ = sources(3)
    signals = parted.query_signals(queries, POINT, Block(1, 8))
    assert_close(signals.measurement, whole.query_signals(queries, POINT, Block(1, 8)).measurement)
    assert signals.examples.tolist() == list(range(1, 8))
    expected = whole.query_gradients(queries, POINT, Block(1, 8))
    found = parted.query_gradients(queries, POINT, Block(1, 8))
    for one, other in zip(found, expected, strict=True):
        for name in one:
            assert_close(one[name].dense(), other[name].dense())


def test_a_size_that_did_not_fit_is_not_tried_again_and_the_warning_comes_once(caplog):
    source = gradient_source(tiny_case(), task := FitsFew())
    task.most = 2
    task.sizes.clear()
    with caplog.at_level(logging.WARNING):
        source.extract(POINT, BLOCK)
        first = list(task.sizes)
        source.extract(POINT, BLOCK)
    assert first[:2] == [7, 3]
    assert max(task.sizes[len(first) :]) <= 2
    (warning,) = caplog.messages
    assert "batch of 7 examples" in warning
    assert "gradients.batch_size to 3 or less" in warning


def test_one_example_that_does_not_fit_is_an_error_that_says_so():
    source = gradient_source(tiny_case(), task := FitsFew())
    task.most = 0
    with pytest.raises(InputError, match=r"^One example alone .*\(Tried to allocate 20.00 GiB.\)"):
        source.extract(POINT, BLOCK)


@pytest.mark.parametrize(
    "words",
    [
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_what_no_allocator_of_a_gpu_was_asked_for_runs_out_by_other_names(words):
    def work(rows):
        if len(rows) > 2:
            raise RuntimeError(words)
        return rows + 1

    assert Halving().run(work, torch.arange(5), join=torch.cat).tolist() == [1, 2, 3, 4, 5]


def test_another_error_is_no_reason_to_part():
    def work(rows):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot"):
        Halving().run(work, torch.arange(5), join=lambda parts: parts[0])
