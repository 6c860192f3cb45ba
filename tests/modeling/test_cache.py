"""What the cache holds, shares, takes back and says of itself."""

import copy

import pytest
import torch


@pytest.fixture
def memory(small, film):
    """The film's compressed memory and what was compressed."""
    ids, frames = film
    return small.model.prefill_video(torch.tensor([ids[:9]]), [frames], 8), ids, frames


def tensors(cache):
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


def same(first, second):
    return all(torch.equal(a, b) for one, other in zip(first, second) for a, b in zip(one, other))


def test_copies_answer_as_if_computed_anew(small, memory):
    cache, ids, frames = memory
    before = tensors(cache)
    for _ in range(3):
        question = ids[:-7] + small.text(6)
        expected = small.generate(question, pixel_values_videos=[frames], compression_ratio=8)
        assert small.generate(question, past_key_values=cache.copy()) == expected
        assert small.generate(question, past_key_values=copy.deepcopy(cache)) == expected
    assert same(tensors(cache), before)


def test_copies_share_memory_until_they_grow(memory, small):
    cache, ids, _ = memory
    first, second = cache.copy(), cache.copy()
    pointers = [c.layers[0].keys.data_ptr() for c in (cache, first, second)]
    assert len(set(pointers)) == 1
    small.generate(ids[-7:], past_key_values=first)
    small.generate(ids[-7:][::-1], past_key_values=second)
    length = cache.physical_length
    assert torch.equal(first.layers[0].keys[:, :, :length], cache.layers[0].keys)
    assert not torch.equal(first.layers[0].keys[:, :, length:], second.layers[0].keys[:, :, length:])


def test_copies_of_copies_in_any_order(small, memory):
    """Whoever appends first may use the shared room; nobody else may notice."""
    cache, _, _ = memory
    questions = [small.text(5) for _ in range(4)]
    alone = [small.generate(question, past_key_values=copy.deepcopy(cache)) for question in questions]
    caches = [cache.copy()]
    for _ in range(2):
        caches.append(caches[-1].copy())
    caches.append(cache)
    for index in (2, 0, 3, 1):
        assert small.generate(questions[index], past_key_values=caches[index]) == alone[index]


def test_what_inference_mode_froze_still_grows(small, memory):
    _, ids, frames = memory
    with torch.inference_mode():
        cache = small.model.prefill_video(torch.tensor([ids[:9]]), [frames], 8)
    expected = small.generate(ids, pixel_values_videos=[frames], compression_ratio=8)
    assert small.generate(ids, past_key_values=cache) == expected


def test_crop_takes_text_back_and_nothing_else(small, memory):
    cache, _, _ = memory
    held, length = tensors(cache), cache.get_seq_length()
    small.generate(small.text(12), past_key_values=cache)
    cache.crop(0)
    cache.crop(-(cache.get_seq_length() - length))
    assert cache.get_seq_length() == length
    assert same(tensors(cache), held)
    with pytest.raises(ValueError, match="compressed memory"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="negative"):
        cache.crop(3)
    assert same(tensors(cache), held)


def test_crop_and_ask_again(small, memory):
    """One memory, many questions, without a copy."""
    cache, ids, frames = memory
    for _ in range(3):
        question, length = small.text(5), cache.get_seq_length()
        expected = small.generate(ids[:-7] + question, pixel_values_videos=[frames], compression_ratio=8)
        assert small.generate(question, past_key_values=cache) == expected
        cache.crop(length - cache.get_seq_length())


def test_crop_of_text_without_a_film(small):
    ids = small.text(20)
    cache = small.model.new_cache()
    small.logits(ids, past_key_values=cache)
    cache.crop(-6)
    assert cache.summary()["kept"] == {"sink": 0, "beacons": 0, "visual": 0, "text": 14, "total": 14}
    torch.testing.assert_close(
        small.logits(ids[14:], past_key_values=cache), small.logits(ids)[14:], atol=1e-4, rtol=0
    )
    with pytest.raises(ValueError, match="only the 20 text tokens"):
        cache.crop(-21)


def test_rows_are_chosen_repeated_and_reordered(small, memory):
    _, ids, frames = memory
    other = small.frames(20)
    rows = [ids, [*small.text(3), *[small.video] * 80, *small.text(4)]]
    longest = max(map(len, rows))
    batch = torch.tensor([[500] * (longest - len(row)) + row for row in rows])
    both = small.model.new_cache()
    with torch.no_grad():
        small.model(
            batch,
            attention_mask=(batch != 500).long(),
            pixel_values_videos=[frames, other],
            compression_ratio=8,
            past_key_values=both,
        )
    question = small.text(5)
    films = [frames, other]
    alone = [
        small.generate(row + question, pixel_values_videos=[film], compression_ratio=8)
        for row, film in zip(rows, films)
    ]

    def ask(cache):
        return small.generate([question] * cache.batch_size, past_key_values=cache)

    assert ask(both.copy()) == alone
    chosen = both.copy()
    chosen.batch_select_indices(torch.tensor([1]))
    assert ask(chosen) == [alone[1]]
    chosen = both.copy()
    chosen.batch_select_indices(torch.tensor([True, False]))
    assert ask(chosen) == [alone[0]]
    swapped = both.copy()
    swapped.reorder_cache(torch.tensor([1, 0]))
    assert ask(swapped) == alone[::-1]
    repeated = both.copy()
    repeated.batch_repeat_interleave(2)
    assert ask(repeated) == [alone[0], alone[0], alone[1], alone[1]]
    with pytest.raises(ValueError, match=r"holds 2 rows, but the input has 3"):
        small.model(torch.tensor([question] * 3), past_key_values=both)


def test_reset_is_a_new_cache(small, memory):
    cache, ids, frames = memory
    cache.reset()
    assert cache.get_seq_length() == cache.physical_length == cache.batch_size == 0
    assert cache.summary()["tokens_seen"] == 0
    expected = small.generate(ids, pixel_values_videos=[frames], compression_ratio=8)
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8}
    assert small.generate(ids, past_key_values=cache, **kwargs) == expected


def test_summary_counts_what_was_put_in(small):
    """Two films and an image: sink, VSTs of ratio 8, raw tokens of ratio 0, text between and behind."""
    ids = [*small.text(6), *[small.video] * 100, *small.text(3), *[small.image] * 8, *small.text(5)]
    cache = small.model.new_cache()
    small.logits(
        ids,
        pixel_values_videos=[small.frames(25)],
        pixel_values=[small.frames(2)],
        compression_ratio=[8, 8, 0, 0],
        past_key_values=cache,
    )
    summary = cache.summary()
    assert summary["tokens_seen"] == len(ids) == cache.get_seq_length()
    assert summary["visual_tokens_seen"] == 108
    assert summary["kept"] == {"sink": 6, "beacons": 12, "visual": 12, "text": 8, "total": 38}
    assert summary["compression"] == 108 / 24
    layers, heads, width = 3, 2, 16
    assert summary["bytes"] == 38 * layers * 2 * heads * width * 4
    for number in ("122", "108", "38", "4.5"):
        assert number in summary["text"]


def test_other_caches_are_refused(small, film):
    from transformers import DynamicCache

    ids, frames = film
    with pytest.raises(ValueError, match=r"DynamicCache.*new_cache"):
        small.generate(ids, pixel_values_videos=[frames], past_key_values=DynamicCache())
    with pytest.raises(ValueError, match=r"quantized.*not supported"):
        small.generate(ids, pixel_values_videos=[frames], cache_implementation="quantized")


def test_an_interrupted_call_leaves_the_cache_as_it_was(small, memory):
    """Ctrl-C in the middle of a second film: the first one's memory still answers."""
    cache, ids, frames = memory
    expected = small.generate(ids, past_key_values=cache.copy())
    held, length = tensors(cache), cache.get_seq_length()
    tower, seen = small.model.model.vision_tower.embeddings, []

    def interrupt(module, inputs):
        seen.append(inputs)
        if len(seen) == 2:
            raise KeyboardInterrupt

    hook = tower.register_forward_pre_hook(interrupt)
    more = [*small.text(5), *[small.video] * 148, *small.text(3)]
    with pytest.raises(KeyboardInterrupt):
        small.generate(ids[:9] + ids[9:157] + more, past_key_values=cache, pixel_values_videos=[frames])
    hook.remove()
    assert (cache.get_seq_length(), cache.physical_length) == (length, held[0][0].shape[2])
    assert same(tensors(cache), held)
    assert small.generate(ids, past_key_values=cache) == expected
