"""The same answers on a GPU; skipped, and listed, without one."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from small_model import GREEDY
from test_decoding import restated

from benchmarks.gpu import Levels
from tests.conftest import CHECKPOINT
from videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.attention_videoxl import ROOM, StaticEntries, attend_split, can_split

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


@contextmanager
def counted_waits():
    """What the host was told about waiting for the GPU, warning by warning."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchroniz" in str(warning.message) for warning in seen)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_waits_are_counted():
    with counted_waits() as waits:
        torch.ones(1, device="cuda").item()
        assert waits() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("way", ["whole", "streamed", "chunks"])
def test_the_host_never_waits_inside_a_window(dtype, way, film):
    """Counted from the pass before the first window to the pass behind the last one: five or six passes."""
    ids, frames = film
    model, counts = on_gpu(dtype), []
    with counted_waits() as waits, torch.no_grad():
        model.model.language_model.register_forward_pre_hook(lambda *_: counts.append(waits()))
        if way == "chunks":
            model.prefill_video(torch.tensor([ids[:9]]).cuda(), frames.split(10), compression_ratio=8)
        else:
            films = [Levels(37, 56) if way == "streamed" else frames]
            model(torch.tensor([ids]).cuda(), pixel_values_videos=films, compression_ratio=8, logits_to_keep=1)
    assert len(counts) == (5 if way == "chunks" else 6)
    assert counts == counts[:1] * len(counts)


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "temperature": 1.0, "num_return_sequences": 3}])
def test_graphs_change_no_token(how, film, exact_products):
    ids, frames = film
    model = on_gpu(torch.float32)
    answers = []
    for disable_compile in (True, False):
        torch.manual_seed(5)
        settings = {**GREEDY, "max_new_tokens": ROOM + 20, "disable_compile": disable_compile, **how}
        arguments = {"pixel_values_videos": [frames], "compression_ratio": 8, **settings}
        answers.append(model.generate(torch.tensor([ids]).cuda(), **arguments))
    assert torch.equal(*answers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_replayed_token_is_a_token_of_forward(dtype, rows, small, film, exact_products):
    """And from the third on the host waits for none; for two rows with padding before one of them."""
    ids, frames = film
    model, tokens = on_gpu(dtype), torch.tensor([small.text(6)] * rows).cuda()
    batch = torch.tensor([ids, [500] * 8 + ids[8:]][:rows]).cuda()
    mask = torch.tensor([[1] * len(ids), [0] * 8 + [1] * (len(ids) - 8)][:rows]).cuda()
    arguments = {"pixel_values_videos": [frames] * rows, "compression_ratio": 8, "attention_mask": mask}
    with torch.no_grad():
        cache = model(batch, **arguments, use_cache=True, logits_to_keep=1).past_key_values
        other, decode = cache.copy(), model.get_compiled_call(None)
        expected = torch.cat([model(token, past_key_values=other).logits for token in tokens.split(1, dim=1)], dim=1)
        found = []
        with counted_waits() as waits:
            for number, token in enumerate(tokens.split(1, dim=1)):
                before = waits()
                found.append(decode(token, past_key_values=cache).logits.clone())
                assert number < 2 or waits() == before
    tolerance = 1e-4 if dtype == torch.float32 else 0.05 * expected.abs().max().item()
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=tolerance, rtol=0)
    assert cache.summary() == other.summary()


@torch.no_grad()
def test_flash_attention_sees_what_a_mask_shows():
    """Of a window over a memory, and of a token over a room; groups of seven heads share keys."""
    states = torch.randn(2, 2, 4, 300 + ROOM, 128, device="cuda", dtype=torch.bfloat16)
    kept, own = states[:, :, :, :300], torch.randn(2, 2, 4, 90, 128, device="cuda", dtype=torch.bfloat16)
    query = torch.randn(2, 28, 90, 128, device="cuda", dtype=torch.bfloat16)
    assert can_split("sdpa", kept[0], 28, False)
    mask = torch.ones(90, 390, dtype=torch.bool, device="cuda").tril(300)
    expected = restated(query.float(), *torch.cat((kept, own), dim=3).float(), mask, 0.09)
    found = attend_split(query, tuple(kept), tuple(own), 0.09).float()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    index, place = torch.arange(300 + ROOM, device="cuda"), torch.tensor([300], device="cuda")
    seen = (index <= place)[None, None, None]
    token, written = query[:, :, :1], own[:, :, :, :1]
    after = torch.cat((kept, written, states[:, :, :, 301:]), dim=3).float()
    found = StaticEntries(*states, place, seen[..., -ROOM:], True).attend(token, *written, 0.09).float()
    torch.testing.assert_close(found, restated(token.float(), *after, seen, 0.09), atol=0.02, rtol=0)
