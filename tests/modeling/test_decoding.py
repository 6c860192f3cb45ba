"""Decoding over buffers of a fixed size gives what `forward` gives, token by token."""

import pytest
import torch
from small_model import GREEDY, Small
from test_goldens import CASES, GENERATE, prompt
from transformers import CompileConfig

from tests.conftest import CHECKPOINT
from videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.attention_videoxl import ROOM, StaticEntries, attend_split, beacon_mask
from videoxl.modeling_videoxl.text_videoxl import BEACONS
from videoxl.modeling_videoxl.windows_videoxl import SpanPlanner


@pytest.fixture(scope="module")
def compiled():
    """One model for all goldens, which one compilation is for."""
    model = VideoXLForCausalLM.from_pretrained(CHECKPOINT, vision_tower=CHECKPOINT / "clip")
    return Small(model.eval(), CHECKPOINT)


@pytest.mark.parametrize("name", GENERATE)
def test_compiled_decoding_gives_the_authors_tokens(name, compiled, golden_tensors):
    ids, visuals = prompt(compiled, CASES[name], golden_tensors)
    output = compiled.model.generate(
        ids,
        **visuals,
        **GREEDY,
        compression_ratio=CASES[name]["ratio"],
        return_dict_in_generate=True,
        output_logits=True,
        compile_config=CompileConfig(fullgraph=True),
    )
    assert output.sequences[0, ids.shape[1] :].tolist() == golden_tensors[f"{name}.tokens"].tolist()
    logits = torch.stack(output.logits, dim=1)[0]
    torch.testing.assert_close(logits, golden_tensors[f"{name}.logits"], atol=1e-4, rtol=0)
    kept = output.past_key_values.summary()["kept"]
    assert [kept["sink"], kept["beacons"], kept["text"]] == CASES[name]["cache_sizes_sink_beacon_raw"]


@pytest.fixture
def traced():
    """Settings that compile nothing but trace the whole work of a token, and the tokens that went through it."""
    tokens = []

    def backend(graph, inputs):
        def run(*arguments):
            tokens.append(1)
            return graph(*arguments)

        return run

    return {"compile_config": CompileConfig(fullgraph=True, backend=backend)}, tokens


def test_rows_of_different_lengths(small, film, traced):
    config, tokens = traced
    ids, frames = film
    short = small.text(5) + [small.video] * 60 + small.text(11)
    batch = [[500] * (len(ids) - len(short)) + short, ids]
    mask = torch.tensor([[int(token != 500) for token in row] for row in batch])
    kwargs = {"pixel_values_videos": [small.frames(15), frames], "compression_ratio": 8, "attention_mask": mask}
    assert small.generate(batch, **kwargs, **config) == small.generate(batch, **kwargs)
    assert len(tokens) == 7


def test_questions_about_one_memory(small, film, traced):
    """Each answered from a copy, whose tokens go into the buffer that the memory lies in."""
    config, tokens = traced
    prefix, questions = torch.tensor([small.text(9)]), [small.text(6), small.text(4)]
    memory = small.model.prefill_video(prefix, [film[1]], compression_ratio=8)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in memory.layers]
    plain = [small.generate(ids, past_key_values=memory.copy()) for ids in questions]
    for _ in range(2):
        assert [small.generate(ids, past_key_values=memory.copy(), **config) for ids in questions] == plain
    assert len(tokens) == 4 * 7
    for layer, (keys, values) in zip(memory.layers, before):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
    assert small.generate(questions[0], past_key_values=memory, **config) == plain[0]  # and from the memory itself


def test_several_samples_with_a_seed(small, film, traced):
    config, _ = traced
    ids, frames = film
    settings = {**GREEDY, "do_sample": True, "temperature": 1.0, "num_return_sequences": 3}
    runs = []
    for how in ({}, config):
        torch.manual_seed(5)
        arguments = {"pixel_values_videos": [frames], "compression_ratio": 8, **settings, **how}
        runs.append(small.model.generate(torch.tensor([ids]), **arguments))
    assert torch.equal(*runs)


def test_answers_longer_than_the_room(small, film, traced):
    config, tokens = traced
    ids, frames = film
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8, "max_new_tokens": ROOM + 20}
    assert small.generate(ids, **kwargs, **config) == small.generate(ids, **kwargs)
    assert len(tokens) == ROOM + 19


def test_cache_is_left_as_plain_decoding_leaves_it(small, film, traced):
    """A conversation goes on from it, with tokens taken back and with a copy taken, one way or the other."""
    config, _ = traced
    ids, frames = film
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8, "return_dict_in_generate": True}
    caches = [small.generate(ids, **kwargs, **how).past_key_values for how in ({}, config)]
    assert caches[0].summary() == caches[1].summary()
    for ours, theirs in zip(caches[1].layers, caches[0].layers):
        torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-4, rtol=0)
    question, answers = small.text(5), []
    for cache in caches:
        branch = cache.copy()
        cache.crop(-2)
        answers.append([small.generate(question, past_key_values=held, **config) for held in (cache, branch)])
    assert answers[0] == answers[1]


def test_copy_taken_between_two_tokens(small, film, traced):
    """The room is given up then: who writes behind the copied entries next, writes for itself."""
    config, _ = traced
    ids, frames = film
    memory = small.model.prefill_video(torch.tensor([ids[:9]]), [frames], compression_ratio=8)
    copies = []

    def criteria(input_ids, scores, **kwargs):
        copies.append(memory.copy())
        return torch.zeros(len(input_ids), dtype=torch.bool)

    question, other = ids[-7:], small.text(3)
    expected = small.generate(question, past_key_values=memory.copy())
    answer = small.generate(question, past_key_values=memory, stopping_criteria=[criteria], **config)
    assert answer == expected
    small.generate(other, past_key_values=copies[3], **config)
    assert small.generate(other, past_key_values=copies[5].copy(), **config) == small.generate(
        other, past_key_values=copies[5]
    )


@pytest.mark.parametrize("how", ["hooks", "eager attention", "beams", "drafts", "states", "disabled", "not asked for"])
def test_plain_decoding_where_it_has_to_be(how, small, film, traced):
    config, tokens = traced
    ids, frames = film
    kwargs = {"pixel_values_videos": [frames], "compression_ratio": 8}
    calls = []
    if how == "hooks":
        small.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    elif how == "eager attention":
        small.model.set_attn_implementation("eager")
    more = {
        "beams": {"num_beams": 2},
        "drafts": {"prompt_lookup_num_tokens": 2},
        "states": {"output_hidden_states": True},
        "disabled": {"disable_compile": True},
    }
    kwargs |= more.get(how, {})
    config = {} if how == "not asked for" else config
    assert small.generate(ids, **kwargs, **config) == small.generate(ids, **kwargs)
    assert not tokens
    assert len(calls) == (16 if how == "hooks" else 0)


def restated(query, keys, values, mask, scaling):
    """Attention written down, keys repeated and all: `[B, q, H, d]`."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    scores = (query @ keys.transpose(2, 3) * scaling).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ values).transpose(1, 2)


@torch.no_grad()
def test_split_attention_is_causal_attention_to_the_lower_right():
    query, past, own = torch.randn(2, 6, 17, 8), torch.randn(2, 2, 2, 40, 8), torch.randn(2, 2, 2, 17, 8)
    mask = torch.ones(17, 57, dtype=torch.bool).tril(40)
    expected = restated(query, *torch.cat((past, own), dim=3), mask, 0.3)
    torch.testing.assert_close(attend_split(query, tuple(past), tuple(own), 0.3), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("split", [False, True])
def test_a_token_over_a_room(split):
    """What was not written yet has no say, nor has padding."""
    kept, written, padding = 40, 3, torch.tensor([[0], [0 if split else 4]])
    states = torch.randn(2, 2, 2, kept + ROOM, 8)
    query, own = torch.randn(2, 6, 1, 8), torch.randn(2, 2, 2, 1, 8)
    index, place = torch.arange(kept + ROOM), torch.tensor([kept + written])
    seen = ((index <= place) & (index >= padding))[:, None, None]  # [2, 1, 1, entries]
    expected = states.clone()
    expected[:, :, :, kept + written] = own[:, :, :, 0]
    expected = restated(query, *expected, seen, 0.3)
    entries = StaticEntries(*states, place, seen[..., -ROOM:] if split else seen, split)
    torch.testing.assert_close(entries.attend(query, *own, 0.3), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_vst_rows_by_themselves_and_among_all_rows(small):
    """The way of a GPU, which takes VST rows out of attention to all rows, against the way of a mask."""
    text = small.model.model.language_model
    layer, segment = text.layers[0], SpanPlanner(True).window(0, 29, 8, last=True)
    hidden, past = torch.randn(2, segment.rows, 64), torch.randn(2, 2, text.config.num_key_value_heads, 21, 16)
    positions = torch.arange(21, 21 + segment.rows)[None]
    embeddings = text.rotary_emb(hidden, positions)
    arguments = {
        "segment": segment,
        "wanted": BEACONS,
        "position_embeddings": embeddings,
        "kept_embeddings": text.rotary_emb(hidden, positions[:, : segment.kept]),
    }
    mask = beacon_mask(segment.beacon_rows, 21, segment.rows, None, hidden, False)
    masked = layer(hidden, *past, **arguments, attention_mask=mask)
    among_all = layer(hidden, *past, **arguments, attention_mask=None, split=True)
    for ours, theirs in zip(among_all, masked):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
