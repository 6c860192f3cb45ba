"""Greedy whatever the checkpoint says, and every argument of `generate`."""

import copy
import re

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, pipeline
from transformers.generation import MinLengthLogitsProcessor

QUESTION = "What happens?"
ALL_FRAMES = {"do_sample_frames": False}


@pytest.fixture
def messages(film):
    content = [{"type": "video", "video": film}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


@pytest.fixture
def ask(film):
    """Asks a pipeline about the film."""

    def answer(pipe, **kwargs):
        return pipe(video=film, question=QUESTION, **ALL_FRAMES, **kwargs)["answer"]

    return answer


@pytest.fixture
def wanted(pipe, messages, generated):
    """The text that the model itself generates."""

    def text(**settings):
        rows = generated(messages, None, ALL_FRAMES, **settings)
        texts = [pipe.tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in rows]
        return texts if len(texts) > 1 else texts[0]

    return text


def test_greedy_whatever_the_checkpoint_says(fresh_pipe, ask, wanted, arguments):
    """Also the settings that have no value meaning "none", which a configuration handed to generate cannot undo."""
    greedy = wanted()
    assert fresh_pipe.model.generation_config.do_sample
    assert ask(fresh_pipe, **arguments) == greedy
    first = fresh_pipe.tokenizer.encode(greedy, add_special_tokens=False)[0]
    changes = [
        {"repetition_penalty": 5.0},
        {"num_beams": 4},
        {"begin_suppress_tokens": [first], "suppress_tokens": [first]},
        {"bad_words_ids": [[first]]},
        {"forced_bos_token_id": 7},
        {"no_repeat_ngram_size": 1},
        {"max_time": 0.0},
        {"sequence_bias": {(5,): 100.0}},
        {"exponential_decay_length_penalty": (0, 5.0)},
        {"prompt_lookup_num_tokens": 3},
        {"max_length": 3, "max_new_tokens": 1},
        {"num_beams": 3, "num_return_sequences": 3},
        {"return_dict_in_generate": True, "output_scores": True},
        {"use_cache": False},
    ]
    for change in changes:
        fresh_pipe.model.generation_config = GenerationConfig(eos_token_id=502, pad_token_id=500, **change)
        before = copy.deepcopy(fresh_pipe.model.generation_config)
        assert ask(fresh_pipe, **arguments) == greedy, change
        assert fresh_pipe.model.generation_config == before


def test_the_checkpoints_settings_are_one_argument_away(pipe, ask, messages, arguments, wanted):
    inputs = pipe.processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, **ALL_FRAMES
    )
    answers = set()
    for seed in range(4):
        torch.manual_seed(seed)
        output = pipe.model.generate(**inputs, suppress_tokens=[503, 504], **arguments)  # the checkpoint's settings
        plain = pipe.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :].tolist(), skip_special_tokens=True)
        torch.manual_seed(seed)
        assert ask(pipe, use_checkpoint_generation=True, **arguments) == plain
        answers.add(plain)
    assert len(answers) > 1  # it does sample
    assert wanted() not in answers


def test_greedy_twice_and_with_any_seed(pipe, ask, arguments, wanted):
    for seed in range(3):
        torch.manual_seed(seed)
        assert ask(pipe, **arguments) == wanted()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[5], [9]]},
        {"min_new_tokens": 5, "eos_token_id": list(range(0, 250))},
    ],
    ids=str,
)
def test_settings_reach_generate(pipe, ask, wanted, arguments, settings):
    assert ask(pipe, **{**arguments, **settings}) == wanted(**settings)


def test_settings_change_the_answer(pipe, ask, arguments):
    assert ask(pipe, **arguments) != ask(pipe, repetition_penalty=3.0, **arguments)
    assert len(ask(pipe, num_beams=3, num_return_sequences=3, **arguments)) == 3


def test_sampling_with_a_seed(pipe, ask, wanted, arguments):
    settings = {"do_sample": True, "temperature": 1.5, "top_k": 30}
    for seed in range(3):
        torch.manual_seed(seed)
        expected = wanted(**settings)
        torch.manual_seed(seed)
        assert ask(pipe, **settings, **arguments) == expected
    torch.manual_seed(0)
    several = ask(pipe, **settings, num_return_sequences=3, **arguments)
    assert len(several) == 3
    assert len(set(several)) > 1


def test_faster_ways_to_the_same_answer(checkpoint, pipe, ask, wanted, arguments):
    greedy = wanted()
    assert ask(pipe, prompt_lookup_num_tokens=3, **arguments) == greedy
    assert ask(pipe, use_cache=False, **arguments) == greedy
    assert ask(pipe, assistant_model=pipe.model, **arguments) == greedy
    assisted = pipeline("video-question-answering", str(checkpoint), device="cpu", assistant_model=pipe.model)
    assert ask(assisted, **arguments) == greedy


def test_objects_reach_generate(pipe, ask, wanted, arguments):
    seen = []

    def stop(ids, scores, **kwargs):
        seen.append(ids.shape[1])
        return torch.full((len(ids),), len(seen) == 3)

    short = ask(pipe, stopping_criteria=StoppingCriteriaList([stop]), **arguments)
    assert len(seen) == 3
    assert short == wanted(max_new_tokens=3)
    rule = LogitsProcessorList([MinLengthLogitsProcessor(10**6, [int(t) for t in range(100)])])
    assert ask(pipe, logits_processor=rule, **arguments) == wanted(suppress_tokens=[*range(100), 503, 504])


def test_stop_strings_need_no_tokenizer(pipe, ask, arguments):
    whole = ask(pipe, **arguments)
    stop = re.search("[a-z]{3}", whole)
    stopped = ask(pipe, stop_strings=[stop.group()], **arguments)
    assert stopped.startswith(whole[: stop.end()])
    assert len(stopped) < len(whole)


def test_generation_config_object(pipe, ask, wanted, arguments):
    config = GenerationConfig(max_new_tokens=5, repetition_penalty=1.4, eos_token_id=499)
    before = copy.deepcopy(config)
    assert ask(pipe, generation_config=config) == wanted(max_new_tokens=5, repetition_penalty=1.4)
    assert config == before
    assert ask(pipe, generation_config=config, max_new_tokens=3) == wanted(max_new_tokens=3, repetition_penalty=1.4)
    with pytest.raises(ValueError, match="not both"):
        ask(pipe, generation_config=config, use_checkpoint_generation=True)


def test_arguments_of_the_pipeline_and_of_the_call(checkpoint, ask, wanted):
    made = pipeline(
        "video-question-answering",
        model=str(checkpoint),
        device="cpu",
        max_new_tokens=4,
        eos_token_id=499,
        compression_ratio=8,
        return_memory=True,
    )
    assert ask(made) == wanted(max_new_tokens=4)
    assert ask(made, max_new_tokens=7) == wanted(max_new_tokens=7)


def test_answers_end_where_the_checkpoint_says(pipe, ask, messages, generated):
    tokens = generated(messages, None, ALL_FRAMES)[0].tolist()
    own = copy.copy(pipe)
    own.model = copy.copy(pipe.model)
    own.model.generation_config = GenerationConfig(eos_token_id=[tokens[4], 502], pad_token_id=500)
    assert ask(own) == pipe.tokenizer.decode(tokens[: tokens.index(tokens[4]) + 1], skip_special_tokens=True)


def test_placeholders_are_never_generated(fresh_pipe, messages, ask, arguments):
    """A head that loves the placeholders more than anything: the model generates them, the pipeline does not."""
    inputs = fresh_pipe.processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, **ALL_FRAMES
    )
    hidden = fresh_pipe.model.model(**{k: v for k, v in inputs.items() if k != "image_sizes"}).last_hidden_state
    with torch.no_grad():
        fresh_pipe.model.lm_head.weight[[503, 504]] = 100 * hidden[0, -1]
    greedy = {"do_sample": False, "repetition_penalty": 1.0, **arguments}
    output = fresh_pipe.model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    assert {503, 504} & set(output.tolist())
    seen = []

    def watch(ids, scores, **kwargs):
        seen.append(int(ids[0, -1]))
        return torch.zeros(len(ids), dtype=torch.bool)

    ask(fresh_pipe, stopping_criteria=StoppingCriteriaList([watch]), suppress_tokens=[1], **arguments)
    assert len(seen) == arguments["max_new_tokens"]
    assert not {1, 503, 504} & set(seen)
