from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.decoder import Decoder, DecoderShape
from benchmarks.workloads import (
    ResNet9,
    build_network,
    final_network,
    margin,
    prepare,
    random_data,
    read_data,
    read_workload,
)

from tests.benchmarks.conftest import TINY
from tests.tiny import assert_close, seeded


def test_a_folder_holds_what_was_prepared(tiny_folder: Path) -> None:
    assert read_workload(tiny_folder) == TINY
    data = read_data(tiny_folder)
    assert [len(data[side][1]) for side in ("train", "query")] == [24, 3]
    names = sorted(file.name for file in (tiny_folder / "checkpoints").iterdir())
    assert names == ["step_000002.pt", "step_000003.pt", "step_000004.pt", "step_000006.pt"]
    last = torch.load(tiny_folder / "checkpoints" / names[-1], weights_only=True)
    for name, value in final_network(tiny_folder).state_dict().items():
        assert torch.equal(value, last["model_state_dict"][name])


def test_the_same_seed_trains_the_same_weights(tiny_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    prepare(TINY, again, random_data(TINY))
    for one, other in zip(
        final_network(tiny_folder).parameters(), final_network(again).parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train: expected at least 25 examples, got 24"):
        prepare(replace(TINY, examples=25), tmp_path, random_data(TINY))


def test_an_image_has_its_logits_alone_and_in_a_batch() -> None:
    with seeded(0):
        model = ResNet9(2).double().eval()
        images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(model(images)[1:2], model(images[1:2]))


def test_the_network_is_that_of_the_workload() -> None:
    convolutions = replace(TINY, network="resnet9", widths=(2,))
    assert isinstance(build_network(convolutions), ResNet9)
    assert [tuple(one.shape) for one in build_network(TINY).parameters()][::2] == [
        (5, 6),
        (4, 5),
        (10, 4),
    ]


def test_the_margin_is_the_log_odds_of_the_label() -> None:
    with seeded(0):
        logits = torch.randn(4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2])
    given = logits.softmax(-1)[torch.arange(4), labels]
    assert_close(margin(logits, labels), torch.logit(given))


def test_a_decoder_does_not_see_what_comes_later() -> None:
    with seeded(0):
        model = Decoder(DecoderShape(layers=2, width=8, heads=2, vocabulary=11)).double()
        tokens = torch.randint(11, (2, 6))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    before, after = model(tokens), model(changed)
    assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4], before[:, 4])


def test_a_decoder_attributes_the_linear_layers_of_its_blocks() -> None:
    model = Decoder(DecoderShape(layers=1, width=8, heads=2, vocabulary=11))
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert len(names) == 8
    assert {name.rsplit(".", 1)[0].removeprefix("blocks.0.") for name in names} == {
        "queries_keys_values",
        "joined",
        "wide",
        "narrow",
    }
