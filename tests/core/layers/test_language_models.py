"""A real GPT-2 and real adapters, tiny and randomly initialised."""

import pytest
import torch
from torch import Tensor, nn

from tests.core.layers.checks import check_all_counted, check_gradients_of, normal
from tests.tiny import seeded

# Imported where they are used: they take seconds.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def gpt2() -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    settings = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2, n_inner=6
    )
    with seeded(101):
        model = transformers.GPT2LMHeadModel(settings).double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        return model, torch.randint(11, (3, 5))


def test_gpt2_is_attributed_whole():
    model, tokens = gpt2()
    coverage = check_gradients_of(model, tokens, lambda ids: model(input_ids=ids).logits)
    assert coverage.share == 1
    assert coverage.tied == {"transformer.wte.weight": ("lm_head.weight",)}
    shapes = {layer.name: layer.shape for layer in coverage.layers}
    assert shapes["transformer.h.0.attn.c_attn"] == (1, 12, 5)
    assert shapes["transformer.wpe"] == (1, 4, 8)
    assert shapes["transformer.ln_f"] == (4, 1, 2)
    assert len(shapes) == 9
    check_all_counted(coverage, model)


def test_adapters_of_gpt2_are_attributed_and_the_rest_is_frozen():
    peft = pytest.importorskip("peft")
    model, tokens = gpt2()
    options = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    with seeded(102):
        adapted = peft.get_peft_model(model, options, autocast_adapter_dtype=False)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
    adapted = adapted.double().eval()
    coverage = check_gradients_of(adapted, tokens, lambda ids: adapted(input_ids=ids).logits)
    assert len(coverage.layers) == 2
    assert all("lora_" in layer.name for layer in coverage.layers)
    assert {one.reason for one in coverage.unattributed} == {"frozen (requires_grad is False)"}
    check_all_counted(coverage, adapted)


def test_adapters_of_a_small_network_are_attributed():
    peft = pytest.importorskip("peft")
    with seeded(103):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        options = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"])
        adapted = peft.get_peft_model(model, options).double().eval()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
        values = normal(5, 4)
    coverage = check_gradients_of(adapted, values)
    kept = [layer.name.removeprefix("base_model.model.") for layer in coverage.layers]
    assert kept == ["0.lora_A.default", "0.lora_B.default", "2.modules_to_save.default"]
    check_all_counted(coverage, adapted)
