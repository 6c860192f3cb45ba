"""Images and videos among text in any order, at any ratio, against the plain restatement and plain Qwen2."""

import itertools

import pytest
import torch
from small_model import GREEDY
from transformers import Qwen2Config, Qwen2ForCausalLM


def mixed(small, order):
    """A prompt of pieces: an int is so many text tokens, ("video" | "image", frames) a span; and its restatement."""
    ids, segments, visuals = [], [], {"pixel_values": [], "pixel_values_videos": []}
    for piece in order:
        if isinstance(piece, int):
            text = small.text(piece)
            ids += text
            segments.append(("text", text))
            continue
        kind, count = piece
        pixels = small.frames(count)
        ids += [small.video if kind == "video" else small.image] * (4 * count)
        visuals["pixel_values_videos" if kind == "video" else "pixel_values"].append(pixels)
        segments.append(("visual", small.features(pixels, image=kind == "image")))
    return ids, segments, {name: pixels for name, pixels in visuals.items() if pixels}


ORDERS = {
    "one video": [9, ("video", 37), 7],
    "video, text, image, text": [5, ("video", 41), 6, ("image", 3), 4],
    "adjacent videos and images": [4, ("video", 13), ("video", 26), ("image", 5), ("image", 2), ("video", 7), 3],
    "starts with a video": [("video", 39), 5],
    "ends with a video": [6, ("video", 37)],
    "nothing but videos": [("video", 13), ("video", 38)],
    "text only": [23],
}


@pytest.mark.parametrize("ratio", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_every_logit_is_the_restatements(order, ratio, small):
    ids, segments, visuals = mixed(small, order)
    expected, sizes = small.restated(segments, ratio)
    torch.testing.assert_close(small.logits(ids, **visuals, compression_ratio=ratio), expected, atol=2e-4, rtol=0)
    cache = small.model.new_cache()
    small.logits(ids, **visuals, compression_ratio=ratio, past_key_values=cache, logits_to_keep=1)
    assert cache.physical_length == sizes.total
    assert cache.summary()["kept"]["beacons"] == sizes.beacon
    assert cache.get_seq_length() == len(ids)


@pytest.mark.parametrize("keep", [1, 3, 20])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_last_logits_alone_are_those_of_all(order, keep, small):
    """Where nobody asks for a window's logits its last layers are cut short, which must change nothing."""
    ids, segments, visuals = mixed(small, order)
    expected, _ = small.restated(segments, 8)
    logits = small.logits(ids, **visuals, compression_ratio=8, logits_to_keep=keep)
    torch.testing.assert_close(logits, expected[-keep:], atol=2e-4, rtol=0)


def test_logits_at_chosen_positions(small, film):
    ids, frames = film
    every = small.logits(ids, pixel_values_videos=[frames])
    chosen = torch.tensor([3, 60, 161, 163])
    some = small.logits(ids, pixel_values_videos=[frames], logits_to_keep=chosen)
    torch.testing.assert_close(some, every[chosen], atol=1e-4, rtol=0)


@pytest.mark.parametrize("summarize", [False, True])
@pytest.mark.parametrize("ratios", [[2, 4, 8, 16, 5, 3], [7, 0, 5, 2, 0, 9], [16, 2, 2, 2, 11, 4]])
def test_a_ratio_for_every_window_over_all_spans(ratios, summarize, small):
    """Left-overs carry on from window to window, also where the next one takes fewer at a time."""
    small.config.summarize_remainder = summarize
    ids, segments, visuals = mixed(small, [5, ("video", 41), 6, ("image", 13), 4])
    expected, sizes = small.restated(segments, ratios, summarize_remainder=summarize)
    logits = small.logits(ids, **visuals, compression_ratio=ratios)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
    cache = small.model.new_cache()
    small.logits(ids, **visuals, compression_ratio=ratios, past_key_values=cache)
    assert cache.physical_length == sizes.total


@pytest.mark.parametrize("frames, ratio", [(37, 8), (1, 8), (37, 5), (13, 16)])
def test_summarized_remainder_keeps_one_more_vst(frames, ratio, small):
    small.config.summarize_remainder = True
    ids, segments, visuals = mixed(small, [5, ("video", frames), 6])
    expected, sizes = small.restated(segments, ratio, summarize_remainder=True)
    logits = small.logits(ids, **visuals, compression_ratio=ratio)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
    cache = small.model.new_cache()
    small.logits(ids, **visuals, compression_ratio=ratio, past_key_values=cache)
    assert cache.summary()["kept"]["beacons"] == sizes.beacon == -(-4 * frames // ratio)


def plain_qwen2(small):
    """transformers' own Qwen2 with the language model's weights."""
    fields = {
        name: value
        for name, value in small.config.text_config.to_dict().items()
        if not name.startswith("beacon") and name not in ("model_type", "architectures")
    }
    plain = Qwen2ForCausalLM(Qwen2Config(**fields)).eval()
    weights = {
        name.replace("model.language_model.", "model."): value
        for name, value in small.model.state_dict().items()
        if "beacon" not in name and ("language_model" in name or "lm_head" in name)
    }
    plain.load_state_dict(weights, strict=True)
    return plain


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_no_compression_is_plain_qwen2(order, small):
    ids, segments, visuals = mixed(small, order)
    plain = plain_qwen2(small)
    embed = plain.get_input_embeddings()
    embeds = torch.cat([embed(torch.tensor(part)) if kind == "text" else part for kind, part in segments])[None]
    with torch.no_grad():
        expected = plain(inputs_embeds=embeds).logits[0]
    logits = small.logits(ids, **visuals, compression_ratio=0)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
    expected = plain.generate(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]), **GREEDY)[0].tolist()
    assert small.generate(ids, **visuals, compression_ratio=0) == expected


def test_hidden_states_are_those_of_the_original_tokens(small):
    ids, segments, visuals = mixed(small, ORDERS["video, text, image, text"])
    with torch.no_grad():
        output = small.model.model(torch.tensor([ids]), **visuals, output_hidden_states=True, logits_to_keep=2)
    assert len(output.hidden_states) == small.config.text_config.num_hidden_layers + 1
    assert all(states.shape == (1, len(ids), 64) for states in output.hidden_states)
    first = torch.cat(
        [small.model.get_input_embeddings()(torch.tensor(part)) if kind == "text" else part for kind, part in segments]
    )
    torch.testing.assert_close(output.hidden_states[0][0], first, atol=1e-5, rtol=0)
    logits = small.model.lm_head(output.hidden_states[-1])[0]
    torch.testing.assert_close(logits, small.logits(ids, **visuals), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.last_hidden_state, output.hidden_states[-1][:, -2:])


def test_windows_and_carry_are_those_of_a_loop_over_tokens():
    """The strided plan against counting tokens one by one."""
    from videoxl.modeling_videoxl.windows_videoxl import SpanPlanner, window_lengths

    for length, window, ratio, summarize in itertools.product((1, 7, 23, 48, 60), (8, 9, 20), (1, 3, 8), (0, 1)):
        planner, open_tokens, start = SpanPlanner(bool(summarize)), 0, 0
        for size in window_lengths(length, window):
            last = start + size == length
            segment = planner.window(start, size, ratio, last)
            places, row = [], 0
            for _ in range(size):
                row, open_tokens = row + 1, open_tokens + 1
                if open_tokens == ratio:
                    places.append(row)
                    row, open_tokens = row + 1, 0
            if last and summarize and open_tokens:
                places.append(row)
                row += 1
            planned = [place for rows in segment.beacon_rows for place in range(*rows.indices(segment.rows))]
            assert planned == places
            assert segment.rows == row
            start += size
        assert planner.lost == (0 if summarize else open_tokens)


def test_no_logits_at_all(small, film):
    ids, frames = film
    cache = small.model.new_cache()
    logits = small.logits(
        ids,
        pixel_values_videos=[frames],
        past_key_values=cache,
        compression_ratio=8,
        logits_to_keep=torch.zeros(0, dtype=torch.long),
    )
    assert logits.shape == (0, 512)
    assert cache.summary()["kept"]["total"] == 9 + 148 // 8 + 7
