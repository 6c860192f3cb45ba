"""Weight-only quantization of the language model by the library's own configurations."""

import pytest
import torch
from small_model import GREEDY
from torch import nn
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from benchmarks.float8 import round_products, rounded
from tests.conftest import CHECKPOINT
from videoxl import VideoXLForCausalLM, VideoXLModel
from videoxl.modeling_videoxl.loading_videoxl import spare_vision

VISION = {"vision_tower": CHECKPOINT / "clip"}


def quantized(model, part):
    """Names of the part's modules whose weights are no plain ones any more."""
    return [
        name
        for name, module in model.named_modules()
        if part in name and isinstance(module, nn.Linear) and type(module) is not nn.Linear
    ]


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("model_class", [VideoXLForCausalLM, VideoXLModel])
def test_what_sees_is_spared(model_class, weights):
    model = model_class.from_pretrained(CHECKPOINT, **VISION, quantization_config=QuantoConfig(weights=weights))
    assert quantized(model, "language_model")
    assert any("beacon" in name for name in quantized(model, "language_model"))
    assert not quantized(model, "vision_tower") and not quantized(model, "projector") and not quantized(model, "head")


@pytest.mark.parametrize("weights, error", [("int8", 0.1), ("int4", 1.0)])
def test_it_is_the_model_of_the_rounded_weights(small, film, weights, error):
    ids, frames = film
    arguments = {"pixel_values_videos": [frames], "compression_ratio": 8}
    exact = small.logits(ids, **arguments)
    config = QuantoConfig(weights=weights)
    model = VideoXLForCausalLM.from_pretrained(CHECKPOINT, **VISION, quantization_config=config)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), **arguments).logits[0]
        for name in quantized(model, "language_model"):
            small.model.get_submodule(name).weight.copy_(model.get_submodule(name).weight.dequantize())
    torch.testing.assert_close(logits, small.logits(ids, **arguments), atol=1e-3, rtol=0)
    assert 0 < (logits - exact).norm() < error * exact.norm()
    assert model.generate(torch.tensor([ids]), **GREEDY, **arguments).shape[1] > len(ids)


def test_who_names_modules_decides():
    given = QuantoConfig(weights="int8", modules_to_not_convert=["lm_head"])
    assert spare_vision(given).modules_to_not_convert == ["lm_head"]
    plain = QuantoConfig(weights="int8")
    assert len(spare_vision(plain).modules_to_not_convert) == 3 and plain.modules_to_not_convert is None
    assert len(spare_vision(BitsAndBytesConfig(load_in_8bit=True)).llm_int8_skip_modules) == 3
    assert len(spare_vision({"quant_method": "quanto", "weights": "int8"})["modules_to_not_convert"]) == 3


def test_float8_errs_by_half_a_step_of_three_bits():
    states = torch.randn(5, 64)
    error = (rounded(states) - states).abs()
    assert (error <= torch.maximum(states.abs() / 16, states.abs().amax(-1, keepdim=True) / 448 / 512)).all()
    assert error.amax() > 0


@pytest.mark.gpu
def test_float8_is_the_model_of_the_rounded_products(small, film):
    """By torchao, of the language model alone; a GPU of compute capability 8.9 or more."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    ids, frames = film
    arguments = {"pixel_values_videos": [frames], "compression_ratio": 8}
    exact = small.logits(ids, **arguments)
    config = TorchAoConfig(Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    model = VideoXLForCausalLM.from_pretrained(
        CHECKPOINT, **VISION, quantization_config=config, dtype=torch.bfloat16, device_map="cuda"
    ).eval()
    spared = [*model.model.vision_tower.modules(), *model.model.multi_modal_projector.modules(), model.lm_head]
    assert all(type(module.weight.data) is torch.Tensor for module in spared if isinstance(module, nn.Linear))
    linear = [module for module in model.model.language_model.modules() if isinstance(module, nn.Linear)]
    assert linear and not any(type(module.weight.data) is torch.Tensor for module in linear)
    with torch.no_grad():
        logits = model(torch.tensor([ids]).cuda(), **arguments).logits[0].float().cpu()
    round_products(small.model.model.language_model)
    expected = small.logits(ids, **arguments)
    assert 0 < (logits - exact).norm() < 1.5 * (expected - exact).norm()
    answers = [
        model.generate(torch.tensor([ids]).cuda(), **GREEDY, **arguments, disable_compile=plain)
        for plain in (True, False)
    ]
    assert answers[0].shape == answers[1].shape
