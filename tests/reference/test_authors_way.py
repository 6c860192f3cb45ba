"""The restatement in ``benchmarks/authors_way.py`` against what the authors' code answered, and against plain Qwen2.

Other tests use the restatement as their reference, so it is held here against things that are not ours.
"""

import json
from pathlib import Path

import pytest
import torch
from extra_row import STORED, recover, training_loss
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.authors_way import AuthorsWay, Hyper, load_published, split_windows, vst_rows

GOLDENS = Path(__file__).parent.parent / "fixtures" / "authors_tiny"
CASES = json.loads((GOLDENS / "cases.json").read_text())
GENERATE = [case for case in CASES if case["kind"] == "generate"]
TRAIN = [case for case in CASES if case["kind"] == "train"]


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDENS / "cases.safetensors")


@pytest.fixture(scope="module")
def published():
    return load_published(GOLDENS / "checkpoint")


def around_visual(ids):
    """Text ids before and after the mark -200."""
    place = ids.tolist().index(-200)
    return ids[:place], ids[place + 1 :]


@pytest.mark.parametrize("case", GENERATE, ids=lambda case: case["name"])
@pytest.mark.parametrize("all_logits", [True, False])
@torch.no_grad()
def test_generates_what_the_authors_code_generated(case, all_logits, tensors, published):
    name = case["name"]
    prefix, suffix = around_visual(tensors[f"{name}.input_ids"])
    way = AuthorsWay(*published, all_logits=all_logits)
    way.prefill(prefix, tensors[f"{name}.visual_features"], case["ratio"])
    tokens, logits = way.greedy(suffix, count=8)
    assert tokens == tensors[f"{name}.tokens"].tolist()
    torch.testing.assert_close(logits, tensors[f"{name}.logits"], atol=1e-4, rtol=0)
    assert [way.sizes.sink, way.sizes.beacon, way.sizes.raw] == case["cache_sizes_sink_beacon_raw"]


@pytest.mark.parametrize("case", GENERATE, ids=lambda case: case["name"])
@torch.no_grad()
def test_run_gives_the_same_as_prefill_and_steps(case, tensors, published):
    name = case["name"]
    prefix, suffix = around_visual(tensors[f"{name}.input_ids"])
    features = tensors[f"{name}.visual_features"]
    answer = tensors[f"{name}.tokens"]
    segments = [("text", prefix), ("visual", features), ("text", torch.cat([suffix, answer[:-1]]))]
    result = AuthorsWay(*published).run(segments, case["ratio"])
    assert len(result.logits) == len(result.hidden) == sum(len(content) for _, content in segments)
    torch.testing.assert_close(result.logits[-8:], tensors[f"{name}.logits"], atol=1e-4, rtol=0)
    assert [result.sizes.sink, result.sizes.beacon, result.sizes.raw] == case["cache_sizes_sink_beacon_raw"]


@pytest.mark.parametrize("case", TRAIN, ids=lambda case: case["name"])
def test_trains_as_the_authors_code_trained(case, tensors, published):
    weights = {key: tensor.clone().requires_grad_() for key, tensor in published[0].items()}
    loss = training_loss(case, tensors, weights, published[1], load_file(STORED)[case["name"]])
    loss.backward()
    assert abs(loss.item() - case["loss"]) < 1e-5
    prefix_of_grads = f"{case['name']}.grad.model."
    compared = 0
    for key, expected in tensors.items():
        ours = weights.get(key.replace(prefix_of_grads, "model.language_model.", 1))
        if key.startswith(prefix_of_grads) and ours is not None:
            assert (ours.grad - expected).norm() <= 1e-4 * expected.norm(), key
            compared += 1
    assert compared == 6


@pytest.mark.parametrize("case", TRAIN, ids=lambda case: case["name"])
def test_stored_extra_row_is_the_one_in_the_goldens_gradients(case, tensors, published):
    stored = load_file(STORED)[case["name"]]
    recovered = recover(case, tensors, *published)
    assert (stored - recovered).norm() < 0.01 * stored.norm()
    assert 0.015 < stored.std() < 0.025  # drawn with initializer_range, 0.02


@torch.no_grad()
def test_without_compression_equals_the_librarys_qwen2():
    """Ratio 0 with token embeddings as features is one plain causal pass over text, several windows long."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    library = Qwen2ForCausalLM(config).eval()
    weights = {
        key.replace("model.", "model.language_model.", 1): tensor for key, tensor in library.state_dict().items()
    }
    embedding = weights["model.language_model.embed_tokens.weight"]
    weights["model.language_model.beacon_embed_tokens.weight"] = torch.full((1, 32), float("nan"))
    for layer in range(3):
        for part in "qkv":
            for kind in ("weight", "bias"):
                plain = weights[f"model.language_model.layers.{layer}.self_attn.{part}_proj.{kind}"]
                weights[f"model.language_model.layers.{layer}.self_attn.beacon_{part}_proj.{kind}"] = plain * float(
                    "nan"
                )
    hyper = Hyper.from_dict({**config.to_dict(), "beacon_window": 10})
    ids = torch.randint(97, (60,))
    segments = [("text", ids[:5]), ("visual", embedding[ids[5:42]]), ("text", ids[42:47])]
    segments += [("visual", embedding[ids[47:51]]), ("text", ids[51:])]
    way = AuthorsWay(weights, hyper)
    result = way.run(segments, ratios=0)
    torch.testing.assert_close(result.logits, library(ids[None]).logits[0], atol=1e-5, rtol=1e-5)
    assert (result.sizes.sink, result.sizes.beacon, result.sizes.raw) == (5, 0, 55)


def places(tokens, ratio, carry, closing=False):
    """The window as text: "." a visual token, "V" a VST; and the new carry."""
    rows, carry = vst_rows(tokens, ratio, carry, closing)
    return "".join(".V"[int(row)] for row in rows), carry


def test_vst_places():
    assert places(8, 4, 0) == ("....V....V", 0)
    assert places(6, 4, 0) == ("....V..", 2)
    assert places(6, 4, 2) == ("..V....V", 0)
    assert places(1, 4, 2) == (".", 3)
    assert places(3, 1, 0) == (".V.V.V", 0)
    assert places(5, 0, 3) == (".....", 0)
    # A carry from a larger ratio counts as ratio - 1: the first VST after one visual token.
    assert places(4, 2, 5) == (".V..V.", 1)
    # Closing a span: one more VST for what is left over, also where that is only a carry; none where nothing is left.
    assert places(6, 4, 0, closing=True) == ("....V..V", 0)
    assert places(1, 4, 1, closing=True) == (".V", 0)
    assert places(8, 4, 0, closing=True) == ("....V....V", 0)
    assert places(5, 0, 3, closing=True) == (".....", 0)
    assert split_windows(100, 48) == [48, 48, 4]
    assert split_windows(0, 48) == []


@torch.no_grad()
def test_several_spans_keep_their_own_windows_ratios_and_remainders(published):
    weights, hyper = published
    torch.manual_seed(0)
    first, second = torch.randn(100, 64), torch.randn(53, 64)
    segments = [("visual", first), ("text", [1, 2, 3]), ("visual", second), ("visual", first[:3]), ("text", [4])]
    ratios = [8, 5, 2, 16, 0, 4]  # windows of 48, 48, 4; 48, 5; 3
    sizes = AuthorsWay(weights, hyper).run(segments, ratios).sizes
    # 48/8; (48+0)/5 leaves 3; that counts as 1 for ratio 2: (4+1)/2; 48/16; all 5; 3 < 4.
    assert (sizes.sink, sizes.beacon, sizes.raw) == (0, 6 + 9 + 2 + 3 + 0 + 0, 4 + 5)
    closed = AuthorsWay(weights, hyper).run(segments, ratios, summarize_remainder=True)
    assert closed.sizes.beacon == sizes.beacon + 2  # the first span's 1 token and the third's 3; the second has none
    assert len(closed.logits) == 100 + 3 + 53 + 3 + 1
    with pytest.raises(ValueError, match="5 ratios for 6 windows"):
        AuthorsWay(weights, hyper).run(segments, ratios[:5])
