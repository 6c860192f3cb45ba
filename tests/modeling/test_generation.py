"""Every way of decoding against its definition, and every second path to the same answer."""

from itertools import chain

import pytest
import torch
from small_model import GREEDY
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.generation import BaseStreamer, LogitsProcessor, LogitsProcessorList


def naive_greedy(small, ids, count=8, **kwargs):
    """Greedy decoding by its definition: the whole sequence again for each token, no cache."""
    ids = list(ids)
    for _ in range(count):
        types = torch.zeros(1, len(ids), dtype=torch.long)
        types[0, : kwargs["prompt_length"]] = torch.tensor(kwargs["types"])
        visuals = {name: value for name, value in kwargs.items() if name not in ("types", "prompt_length")}
        ids.append(small.logits(ids, mm_token_type_ids=types, use_cache=False, **visuals)[-1].argmax().item())
    return ids[-count:]


def naive_beam(small, ids, beams, count, **kwargs):
    """Beam search by its definition, all hypotheses of one length: no end token, no length penalty to choose by."""
    hypotheses = [(0.0, list(ids))]
    for _ in range(count):
        grown = []
        for score, sequence in hypotheses:
            scores = small.logits(sequence, use_cache=False, logits_to_keep=1, **kwargs)[-1].log_softmax(-1)
            grown += [(score + value.item(), [*sequence, token]) for token, value in enumerate(scores)]
        hypotheses = sorted(grown, key=lambda pair: -pair[0])[:beams]
    return hypotheses[0][1][-count:]


@pytest.fixture
def greedy(small, film):
    """The film's greedy answer at ratio 8, and what asks for it."""
    ids, frames = film
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8}
    return small.generate(ids, **kwargs), ids, kwargs


def test_cache_against_no_cache(small, greedy):
    answer, ids, kwargs = greedy
    assert small.generate(ids, use_cache=False, **kwargs) == answer
    types = [2 if token == small.video else 0 for token in ids]
    assert naive_greedy(small, ids, prompt_length=len(ids), types=types, **kwargs) == answer


def test_beam_search_is_its_definition(small, greedy):
    _, ids, kwargs = greedy
    found = small.generate(ids, num_beams=3, max_new_tokens=4, **kwargs)
    assert found == naive_beam(small, ids, 3, 4, **kwargs)
    assert small.generate(ids, num_beams=3, max_new_tokens=4, use_cache=False, **kwargs) == found


@pytest.mark.parametrize("how", ["prompt lookup", "itself", "another", "text only"])
def test_drafts_change_nothing(how, small, greedy):
    answer, ids, kwargs = greedy
    if how == "prompt lookup":
        # The answer's own tokens before the film make drafts that are right, and others that reach into it.
        ids = [*answer[:4], *ids]
        answer = small.generate(ids, **kwargs)
        assert small.generate(ids, prompt_lookup_num_tokens=4, **kwargs) == answer
        return
    assistants = {"itself": lambda: small.model, "another": lambda: other_weights(small), "text only": qwen2}
    assert small.generate(ids, assistant_model=assistants[how](), **kwargs) == answer


def other_weights(small):
    other = type(small.model)(small.config).eval()
    other.generation_config.eos_token_id = None
    return other


def qwen2():
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return Qwen2ForCausalLM(config).eval()


def test_prompt_that_ends_in_the_film_with_drafts(small):
    """The first drafted token stands right behind the last placeholder, and a drafted placeholder is text."""
    ids, frames = [*small.text(3), *[small.video] * 148], small.frames(37)
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8}
    assert small.generate(ids, prompt_lookup_num_tokens=4, **kwargs) == small.generate(ids, **kwargs)


def test_sampling_is_seeded_and_several_samples_come_from_one_prefill(small, greedy):
    _, ids, kwargs = greedy
    runs = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        runs.append(
            small.model.generate(
                torch.tensor([ids]),
                **{**GREEDY, "do_sample": True, "temperature": 1.0},
                num_return_sequences=3,
                use_cache=use_cache,
                **kwargs,
            )
        )
    assert torch.equal(*runs)
    assert len({tuple(row.tolist()) for row in runs[0]}) > 1


def test_streamer_gets_every_token_in_order(small, greedy):
    class Kept(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    answer, ids, kwargs = greedy
    streamer = Kept()
    small.generate(ids, streamer=streamer, **kwargs)
    assert streamer.tokens == ids + answer
    assert streamer.ended


def test_returned_dict_holds_logits_of_every_step(small, greedy):
    answer, ids, kwargs = greedy
    output = small.generate(ids, return_dict_in_generate=True, output_logits=True, output_hidden_states=True, **kwargs)
    every = small.logits(output.sequences[0].tolist()[:-1], mm_token_type_ids=types_of(small, ids, 7), **kwargs)
    torch.testing.assert_close(torch.cat(output.logits), every[-8:], atol=1e-4, rtol=0)
    assert output.hidden_states[0][0].shape == (1, len(ids), 64)
    assert output.hidden_states[1][-1].shape == (1, 1, 64)
    assert output.past_key_values.get_seq_length() == len(ids) + len(answer) - 1


def types_of(small, ids, more):
    return torch.tensor([[2 if token == small.video else 0 for token in ids] + [0] * more])


class Placeholder(LogitsProcessor):
    """Makes the model say a placeholder."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -1e9)
        forced[:, self.token] = 0
        return forced


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_generated_placeholder_is_text(use_cache, small, greedy):
    _, ids, kwargs = greedy
    processors = LogitsProcessorList([Placeholder(small.video)])
    tokens = small.generate(ids, logits_processor=processors, use_cache=use_cache, **kwargs)
    assert tokens == [small.video] * 8
    tokens = small.generate(small.text(5), logits_processor=processors, use_cache=use_cache)
    assert tokens == [small.video] * 8


# Conversations


def test_follow_up_question_against_the_whole_conversation(small, greedy):
    _, ids, kwargs = greedy
    first = small.generate(ids, return_dict_in_generate=True, **kwargs)
    cache, conversation = first.past_key_values, first.sequences[0].tolist() + small.text(6)
    before = cache.summary()["kept"]["beacons"]
    second = small.generate(conversation, past_key_values=cache)
    assert second == small.generate(conversation, **kwargs)
    assert cache.summary()["kept"]["beacons"] == before


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 3}])
def test_follow_up_with_a_film_of_its_own(how, small, greedy):
    """Features belong to the placeholders that the cache has not seen."""
    _, ids, kwargs = greedy
    first = small.generate(ids, return_dict_in_generate=True, **kwargs)
    conversation = [*first.sequences[0].tolist(), *small.text(4), *[small.video] * 60, *small.text(3)]
    frames = small.frames(15)
    second = small.generate(
        conversation,
        past_key_values=first.past_key_values,
        pixel_values_videos=[frames],
        compression_ratio=4,
        **how,
    )
    films = {"pixel_values_videos": [*kwargs["pixel_values_videos"], frames]}
    assert second == small.generate(conversation, compression_ratio=[8] * 4 + [4] * 2, **films, **how)


def test_only_the_new_tokens_of_a_conversation(small, greedy):
    answer, ids, kwargs = greedy
    cache = small.model.prefill_video(torch.tensor(ids[:9]), [kwargs["pixel_values_videos"][0]], 8)
    assert small.generate(ids[-7:], past_key_values=cache) == answer


# Films of unknown length


@pytest.mark.parametrize("sizes", [[37], [1] * 37, [5, 1, 24, 7], [12, 12, 12, 1]])
@pytest.mark.parametrize("ratio, summarize", [(8, False), (5, True), (0, False), ([2, 4, 0, 5], False)])
def test_film_in_chunks_is_the_film(sizes, ratio, summarize, small, film):
    ids, frames = film
    small.config.summarize_remainder = summarize
    whole = small.generate(ids, pixel_values_videos=[frames], compression_ratio=ratio)
    cache = small.model.prefill_video(torch.tensor([ids[:9]]), iter(frames.split(sizes)), ratio)
    assert cache.get_seq_length() == 9 + 148
    assert small.generate(ids, past_key_values=cache.copy()) == whole
    assert small.generate(ids, past_key_values=cache, prompt_lookup_num_tokens=3) == whole


def test_chunks_that_do_not_fit_are_errors(small):
    prefix, frames = torch.tensor([small.text(4)]), small.frames(25)
    with pytest.raises(ValueError, match="no frame"):
        small.model.prefill_video(prefix, iter([]), 8)
    with pytest.raises(ValueError, match=r"lists 2 ratios.* 3 windows"):
        small.model.prefill_video(prefix, [frames], [8, 8])
    with pytest.raises(ValueError, match=r"lists 4 ratios.* 3 windows"):
        small.model.prefill_video(prefix, [frames], [8, 8, 8, 8])
    with pytest.raises(ValueError, match=r"chunks\[0\] has shape \(5, 3, 55, 56\)"):
        small.model.prefill_video(prefix, [torch.zeros(5, 3, 55, 56)], 8)


# Batches


@pytest.fixture
def unequal(small):
    """Four rows with nothing in common: a film, an image and two adjacent films, text, a film alone."""
    rows = [
        [*small.text(9), *[small.video] * 148, *small.text(7)],
        [*small.text(4), *[small.image] * 8, *small.text(3), *[small.video] * 72, *small.text(5)],
        small.text(30),
        [*[small.video] * 200, *small.text(2)],
    ]
    images = [[], [small.frames(2)], [], []]
    videos = [[small.frames(37)], [small.frames(13), small.frames(5)], [], [small.frames(50)]]
    return rows, images, videos


def visuals_of(images, videos):
    visuals = {"pixel_values": images, "pixel_values_videos": videos}
    return {name: pixels for name, pixels in visuals.items() if pixels}


def joined(lists):
    return list(chain.from_iterable(lists))


def padded(rows, side="left"):
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    left = side == "left"
    ids = [[0] * gap * left + row + [0] * gap * (not left) for gap, row in zip(gaps, rows)]
    mask = [[0] * gap * left + [1] * len(row) + [0] * gap * (not left) for gap, row in zip(gaps, rows)]
    return ids, torch.tensor(mask)


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"use_cache": False}, {"num_beams": 2, "use_cache": False, "max_new_tokens": 4}]
)
def test_unequal_rows_answer_as_if_alone(how, small, unequal):
    rows, images, videos = unequal
    ids, mask = padded(rows)
    together = small.generate(
        ids, attention_mask=mask, compression_ratio=8, **visuals_of(joined(images), joined(videos)), **how
    )
    alone = [
        small.generate(row, compression_ratio=8, **visuals_of(*visual), **how)
        for row, *visual in zip(rows, images, videos)
    ]
    assert together == alone


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_unequal_rows(side, small, unequal):
    rows, images, videos = unequal
    ids, mask = padded(rows, side)
    with torch.no_grad():
        logits = small.model(
            torch.tensor(ids),
            attention_mask=mask,
            compression_ratio=5,
            **visuals_of(joined(images), joined(videos)),
        ).logits
    for row, *visual, place, result in zip(rows, images, videos, mask, logits):
        expected = small.logits(row, compression_ratio=5, **visuals_of(*visual))
        torch.testing.assert_close(result[place.bool()], expected, atol=1e-4, rtol=0)


def test_conversation_of_unequal_rows_goes_on(small, unequal):
    rows, images, videos = unequal
    ids, mask = padded(rows)
    first = small.generate(
        ids,
        attention_mask=mask,
        compression_ratio=8,
        return_dict_in_generate=True,
        suppress_tokens=[small.image, small.video],  # in the answer alone they could not be told from a film
        **visuals_of(joined(images), joined(videos)),
    )
    more = [small.text(count) for count in (5, 2, 4, 5)]
    answers = first.sequences[:, len(ids[0]) :].tolist()
    turns, turn_mask = padded(more)
    conversation = [row + answer + turn for row, answer, turn in zip(ids, answers, turns)]
    mask = torch.cat((mask, torch.ones(4, 8, dtype=torch.long), turn_mask), dim=1)
    second = small.generate(conversation, attention_mask=mask, past_key_values=first.past_key_values)
    for row, *visual, answer, turn, result in zip(rows, images, videos, answers, more, second):
        assert result == small.generate(row + answer + turn, compression_ratio=8, **visuals_of(*visual))


def test_a_list_of_ratios_is_for_the_rows_with_windows(small, film):
    ids, frames = film
    rows, mask = padded([ids, small.text(5)])
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": [2, 4, 8, 4]}
    together = small.generate(rows, attention_mask=mask, **kwargs)
    assert together[0] == small.generate(ids, **kwargs)
    assert together[1] == small.generate(rows[1][-5:])
    for ratios in ([2, 4, 8], [2, 4, 8, 4, 2]):
        with pytest.raises(ValueError, match=rf"lists {len(ratios)} ratios.* 4 windows"):
            small.generate(ids, pixel_values_videos=[frames], compression_ratio=ratios)
    with pytest.raises(ValueError, match=r"lists 2 ratios.* 0 windows"):
        small.generate(small.text(5), compression_ratio=[2, 4])


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"compression_ratio": -1}, r"compression_ratio=-1: give a positive integer, 0 for no compression"),
        ({"compression_ratio": 2.0}, r"compression_ratio=2.0"),
        ({"compression_ratio": True}, r"compression_ratio=True"),
        ({"compression_ratio": [8, "4", 8, 8]}, r"compression_ratio=\[8, '4', 8, 8\]"),
        ({"compression_ratio": 49}, r"a window has 48 visual tokens"),
        ({"pixel_values_videos": 36}, r"148 video placeholders, but the video features are 144 visual tokens"),
        ({"pixel_values_videos": 38}, r"148 video placeholders, but the video features are 152 visual tokens"),
        ({"pixel_values_videos": None}, r"148 video placeholders, but the video features are 0 visual tokens"),
        ({"pixel_values": 1}, r"0 image placeholders, but the image features are 4 visual tokens"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_both_sides(wrong, said, small, film):
    ids, frames = film
    wrong = {name: [small.frames(value)] if "pixel" in name and value else value for name, value in wrong.items()}
    with pytest.raises(ValueError, match=said):
        small.generate(ids, **{"pixel_values_videos": [frames], **wrong})


def test_two_films_where_the_text_has_one_place_of_each(small):
    """The counts agree in sum, but the first film does not fit into the first run of placeholders."""
    ids = [*[small.video] * 8, *small.text(2), *[small.video] * 12, *small.text(2)]
    with pytest.raises(ValueError, match=r"has 8 left for video 0, which has 12 visual tokens"):
        small.generate(ids, pixel_values_videos=[small.frames(3), small.frames(2)])


def test_a_loss_of_tokens_is_said_once_with_the_numbers(small, film, monkeypatch):
    from videoxl.modeling_videoxl import backbone_videoxl

    said = []
    monkeypatch.setattr(backbone_videoxl.logger, "warning", said.append)
    ids, frames = film
    small.generate(ids, pixel_values_videos=[frames], compression_ratio=4)
    assert said == []
    for _ in range(2):
        small.generate(ids, pixel_values_videos=[frames], compression_ratio=8)
    assert len(said) == 1
    assert said[0].startswith("4 of 148 visual tokens")
    small.model.model._warned_of_loss = False
    small.config.summarize_remainder = True
    small.generate(ids, pixel_values_videos=[frames], compression_ratio=8)
    assert len(said) == 1


def test_equal_rows_in_one_batch(small, film):
    """Rows with the same spans go through the windows together."""
    ids, frames = film
    other = small.frames(37)
    films = [frames, other]
    together = small.generate([ids, ids], pixel_values_videos=films, compression_ratio=8)
    assert together == [small.generate(ids, pixel_values_videos=[part], compression_ratio=8) for part in films]
    stacked = small.generate([ids, ids], pixel_values_videos=torch.stack(films), compression_ratio=8)
    assert stacked == together


# Other inputs


def test_embeddings_in_place_of_ids(small, greedy):
    _, ids, kwargs = greedy
    embeds = small.model.get_input_embeddings()(torch.tensor([ids])).detach()
    with torch.no_grad():  # as `small.logits`: where gradients are kept attention rounds otherwise
        logits = small.model(inputs_embeds=embeds, **kwargs).logits[0]
    torch.testing.assert_close(logits, small.logits(ids, **kwargs), atol=1e-5, rtol=0)
    for how in ({}, {"num_beams": 2}):
        tokens = small.model.generate(inputs_embeds=embeds, **GREEDY, **kwargs, **how)[0].tolist()
        assert tokens == small.generate(ids, **kwargs, **how)


def test_features_in_place_of_pixels(small, greedy):
    answer, ids, kwargs = greedy
    encoded = {"video": small.model.get_video_features(kwargs["pixel_values_videos"])}
    assert small.generate(ids, mm_encoder_outputs=encoded, compression_ratio=8) == answer
    beams = small.generate(ids, num_beams=2, **kwargs)
    assert small.generate(ids, mm_encoder_outputs=encoded, compression_ratio=8, num_beams=2) == beams


def test_ratio_of_none_is_the_configurations(small, film):
    ids, frames = film
    small.config.default_compression_ratio = 4
    answer = small.generate(ids, pixel_values_videos=[frames])
    assert answer == small.generate(ids, pixel_values_videos=[frames], compression_ratio=4)


def test_prefill_chunks_of_transformers_move_no_window(small, greedy):
    answer, ids, kwargs = greedy
    assert small.generate(ids, prefill_chunk_size=7, **kwargs) == answer


def test_eager_attention_agrees(small, greedy):
    answer, ids, kwargs = greedy
    expected = small.logits(ids, **kwargs)
    small.model.set_attn_implementation("eager")
    torch.testing.assert_close(small.logits(ids, **kwargs), expected, atol=1e-4, rtol=0)
    rows, mask = padded([small.text(4), ids])
    assert small.generate(rows, attention_mask=mask, **kwargs)[1] == answer


def test_flex_attention_agrees(small, greedy):
    _, ids, kwargs = greedy
    expected = small.logits(ids, **kwargs)
    small.model.set_attn_implementation({"text_config": "flex_attention", "vision_config": "sdpa"})
    torch.testing.assert_close(small.logits(ids, **kwargs), expected, atol=1e-4, rtol=0)
