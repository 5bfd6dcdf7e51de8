"""Fixed dropout masks: the same for every example and pass, another one for every number."""

import pytest
import torch
from torch import nn

from sourcetrace.core.model.dropout import _uniform_at, dropout_mask
from sourcetrace.errors import InputError


def thinned(model, inputs, number=1, seed=3, **arguments):
    with dropout_mask(model.eval(), number, seed=seed, **arguments):
        return model(inputs)


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks]


def test_numbers_are_uniform_and_belong_to_their_index_alone():
    numbers = _uniform_at([64, 128], seed=5)
    assert torch.equal(_uniform_at([7, 9], seed=5), numbers[:7, :9])
    assert not torch.equal(_uniform_at([64, 128], seed=6), numbers)
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert numbers.std().item() == pytest.approx(12**-0.5, abs=0.01)
    # Neighbours in a row and in a column tell nothing of each other.
    for dimension in (0, 1):
        pairs = torch.stack([numbers, numbers.roll(1, dimension)]).flatten(1)
        assert torch.corrcoef(pairs)[0, 1].abs() < 0.03


def test_a_mask_is_one_for_all_examples_and_passes_and_keeps_the_scale():
    model = nn.Sequential(nn.Dropout(0.25))
    ones = torch.ones(5, 4000)
    mask = thinned(model, ones)
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert torch.equal(thinned(model, ones[:2]), mask[:2])
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert mask.mean().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(thinned(model, ones, 2), mask)
    assert not torch.equal(thinned(model, ones, seed=4), mask)
    assert torch.equal(thinned(model, ones, 0), ones)


def test_two_modules_have_masks_of_their_own():
    both = thinned(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)), torch.ones(1, 4000))
    assert (both == 0).double().mean().item() == pytest.approx(0.75, abs=0.05)


def test_a_longer_sequence_begins_with_the_mask_of_a_shorter_one():
    model = nn.Sequential(nn.Dropout(0.5))
    long = thinned(model, torch.ones(2, 9, 16))
    assert torch.equal(thinned(model, torch.ones(2, 4, 16)), long[:, :4])


@pytest.mark.parametrize(("kind", "dimensions"), [(nn.Dropout1d, 1), (nn.Dropout2d, 2)])
def test_channels_are_dropped_as_a_whole(kind, dimensions):
    mask = thinned(nn.Sequential(kind(0.5)), torch.ones(3, 32, *[4] * dimensions)).flatten(2)
    assert torch.equal(mask, mask[:, :, :1].expand_as(mask))
    assert len(mask.unique()) == 2


def test_hooks_are_removed_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def fail():
        with dropout_mask(model, 1, seed=0):
            assert hooks(model)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not hooks(model)


def test_a_model_without_dropout_modules_is_refused():
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.0)), nn.AlphaDropout(0.5)):
        with pytest.raises(InputError, match=r"no nn\.Dropout"):
            thinned(model, torch.ones(1, 2))


def test_inputs_that_are_not_batched_by_example_are_refused_but_may_be_one_for_all():
    model = nn.Sequential(nn.Dropout(0.5))
    with pytest.raises(InputError, match=r"^0: its input has shape \[7, 2\] for a batch of 2"):
        thinned(model, torch.ones(7, 2), examples=2)
    assert thinned(model, torch.ones(1, 7), examples=2).shape == (1, 7)
