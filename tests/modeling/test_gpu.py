"""The same answers on a GPU; skipped, and listed, without one."""

import pytest
import torch
from small_model import GREEDY

from tests.conftest import CHECKPOINT
from videoxl import VideoXLForCausalLM

pytestmark = pytest.mark.gpu


@pytest.fixture
def exact_products():
    """Float32 products without TF32, whose 10 bits of mantissa would hide real errors."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_gpu(dtype):
    return VideoXLForCausalLM.from_pretrained(
        CHECKPOINT, vision_tower=CHECKPOINT / "clip", device_map="cuda", dtype=dtype
    ).eval()


@pytest.mark.parametrize("ratio", [0, 5, 8])
def test_float32_logits_are_the_cpus(ratio, small, film, exact_products):
    ids, frames = film
    model = on_gpu(torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids]).cuda(), pixel_values_videos=[frames], compression_ratio=ratio).logits[0]
    expected = small.logits(ids, pixel_values_videos=[frames], compression_ratio=ratio)
    torch.testing.assert_close(logits.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 3}])
def test_generates_what_the_cpu_generates(how, small, film, exact_products):
    ids, frames = film
    model = on_gpu(torch.float32)
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8, **how}
    tokens = model.generate(torch.tensor([ids]).cuda(), **GREEDY, **kwargs)[0, len(ids) :]
    assert tokens.tolist() == small.generate(ids, **kwargs)


def test_bfloat16_on_both_devices(small, film):
    """Two roundings of one computation differ from float32 alike."""
    ids, frames = film
    exact = small.logits(ids, pixel_values_videos=[frames], compression_ratio=8)
    with torch.no_grad():
        arguments = {"pixel_values_videos": [frames], "compression_ratio": 8}
        gpu = on_gpu(torch.bfloat16)(torch.tensor([ids]).cuda(), **arguments).logits[0].float().cpu()
    small.model.to(torch.bfloat16)
    cpu = small.logits(ids, **arguments).float()
    assert (gpu - exact).norm() < 1.5 * (cpu - exact).norm()
