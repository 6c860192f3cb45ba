"""Clocks in the small checkpoint: what is read off its rows is the truth about films that no fit has seen."""

import copy
import math
import re
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2Config, pipeline

import videoxl
from videoxl.training.encoding import NOTHING
from videoxl.training.tiny_clocks import (
    FINDER,
    READOUT,
    SHARES,
    SignCodes,
    TimeWords,
    check_heads,
    set_clocks,
    set_finder,
    set_readout,
    set_thermometer,
    timed_rows,
)
from videoxl.training.tiny_data import TaskRows
from videoxl.training.tiny_readings import line, read_films, sign_tokens
from videoxl.training.tiny_time import PICTURES, WORDS, TimeCourse, main
from videoxl.training.tiny_words import SpelledCollator, bags

SEED = 5  # of films beside those that were fitted on


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(videoxl.tiny_checkpoint())


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForCausalLM.from_pretrained(videoxl.tiny_checkpoint(), attn_implementation="eager")


@pytest.fixture(scope="module")
def grafted(processor):
    """A model with clocks, finder and thermometer of few films, and where the finder writes."""
    model = AutoModelForCausalLM.from_pretrained(videoxl.tiny_checkpoint(), attn_implementation="eager")
    set_clocks(model, processor, 4)
    spoken = set_finder(model, processor, 8)
    set_thermometer(model, processor, spoken, 8)
    return model, spoken


def counts(readings):
    """How many VSTs there were up to each, its own included."""
    return torch.cat([torch.arange(1, len(one.vsts) + 1) for one in readings])


def fitted(readings, others):
    """log n of others' VSTs, read by a line that the first ones' fit: how far it is off, on the whole."""
    weight, bias = line(torch.cat([one.vsts for one in readings]), counts(readings).log()[:, None], 1e-3)
    said = torch.cat([one.vsts for one in others]) @ weight[0] + bias
    return (said - counts(others).log()).square().mean().sqrt().item()


def test_vsts_tell_how_many_there_were(shipped, processor, grafted):
    missed = []
    for model in (shipped, grafted[0]):
        module = model.model.language_model.layers[2].input_layernorm
        reads = [list(read_films(model, processor, module, 4, seed, frames=(20, 40))) for seed in (SEED, SEED + 1)]
        missed.append(fitted(*reads))
    assert missed[1] < 0.25 < missed[0]  # of log n, which varies by about 0.9


def test_text_tells_when_what_it_names_was_shown(processor, grafted):
    model, spoken = grafted
    module = model.model.language_model.layers[FINDER].post_attention_layernorm
    rows, times = timed_rows(model, processor, module, 8, SEED)
    told = (rows @ spoken.when) / (rows @ spoken.films)
    assert len(times) > 50 and torch.corrcoef(torch.stack([told, times]))[0, 1] > 0.9


def test_the_thermometer_rises_with_time(processor, grafted):
    model, spoken = grafted
    mlp = model.model.language_model.layers[FINDER].mlp
    rows, times = timed_rows(model, processor, mlp, 8, SEED)
    steps = rows @ spoken.steps.T  # [N, shares]
    for place, share in list(enumerate(SHARES))[4:-3]:  # where there is something on either side
        late = times > math.log(share)
        assert steps[late, place].mean() > steps[~late, place].mean() + 0.5, share


def test_the_readout_says_the_third_that_was_asked_for(processor, grafted):
    model, spoken = copy.deepcopy(grafted[0]), grafted[1]
    mlp = model.model.language_model.layers[READOUT].mlp
    set_readout(model, processor, spoken, 14)
    words, right = TimeWords(processor.tokenizer), []
    for one in read_films(model, processor, mlp, 8, SEED, frames=(12, 60), families=("time",)):
        for row, spot in zip(one.text, words.spots(one.ids.tolist())):
            if spot is not None and spot[0] == 1:
                said = model.lm_head(row)[words.thirds].argmax().item()
                right.append(said == spot[1])
    assert len(right) > 10 and sum(right) / len(right) > 0.6  # of three


@torch.no_grad()
def said_of_films(model, processor):
    """Of what answers about retrieval say next, the logits of other films than the fits': [labels, vocabulary]."""
    rows = TaskRows(8, 1, (20, 40), 4, SEED, families=("retrieval",), ways=("open",), captions=0)
    collate = SpelledCollator(processor, max_frames=40)
    logits, right = [], []
    for row in map(rows.__getitem__, range(len(rows))):
        batch = collate([row])
        sent = bags(batch["films"][0], model.get_input_embeddings().weight)
        sent = sent.repeat_interleave(model.config.tokens_per_frame, 0)
        asked = torch.nn.functional.pad(batch["labels"][:, 1:] != NOTHING, (0, 1))
        output = model(
            batch["input_ids"], mm_encoder_outputs={"video": [sent]}, compression_ratio=8, logits_to_keep=asked
        )
        logits.append(output.logits[0])
        right.append(batch["labels"][:, 1:][asked[:, :-1]])
    return torch.cat(logits), torch.cat(right)


def test_what_the_grafts_displaced_was_of_little_use(shipped, processor, grafted):
    (before, right), (after, _) = (said_of_films(model, processor) for model in (shipped, grafted[0]))
    was, now = ((logits.argmax(-1) == right).float().mean().item() for logits in (before, after))
    assert len(right) > 100 and was > 0.9 and now > was - 0.1


def test_the_last_two_layers_learn_in_words_and_in_pictures(processor, grafted, tmp_path, monkeypatch):
    for part in (grafted[0], processor):
        part.save_pretrained(tmp_path / "clocks" / "model")
    (tmp_path / "clocks" / "finished").touch()
    for stage in (WORDS, PICTURES):
        for name, value in {"frames": (12, 16), "batch_size": 2, "questions": 2}.items():
            monkeypatch.setitem(stage, name, value)
    made = TimeCourse("anything", tmp_path, 2, 0, album={"looks": 1, "scenes": 1}).run()
    states = [
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "clocks" / "model", tmp_path / "words" / "model", made)
    ]
    for before, after in pairwise(states):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and all(re.search(r"layers\.[45]\.", name) for name in changed)
    assert pipeline(videoxl.TASK, model=str(made)).model.config.tokens_per_frame == 16
    with pytest.raises(ValueError, match="other settings"):
        TimeCourse("anything", tmp_path, 5, 0).run()


def test_stopped_it_says_so(tmp_path, monkeypatch, capsys):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("videoxl.training.tiny_time.graft", stop)
    assert main(["--output", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err


def test_folders_that_cannot_be_are_named_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    for given in (
        ["--model", str(tmp_path / "nowhere"), "--output", str(tmp_path / "new")],
        ["--output", str(tmp_path / "file")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2 and given[1] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_line_is_the_least_squares_one():
    torch.manual_seed(0)
    rows, weights = torch.randn(40, 3), torch.rand(40)
    wanted = torch.randn(40, 2)
    weight, bias = line(rows, wanted, 0.0, weights)
    ones = torch.cat([rows, torch.ones(40, 1)], 1) * weights.sqrt()[:, None]
    solved = torch.linalg.lstsq(ones, wanted * weights.sqrt()[:, None]).solution
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], 1), solved.T, atol=1e-4, rtol=1e-3)
    assert line(rows, wanted, 100.0)[0].norm() < 0.1 * weight.norm()


def test_codes_of_three_words_back(processor):
    codes = SignCodes(sign_tokens(processor.tokenizer))
    star, moon, film = (
        processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" star", " moon", " film")
    )
    ids = torch.tensor([star, film, moon, film, film, film])
    own = codes.of(ids)
    assert own[1].norm() == 0 and own[0].norm() == pytest.approx(1)
    wanted = [0 * own[0], own[0], own[0], own[0] + own[2], own[2], own[2]]
    torch.testing.assert_close(codes.named(ids), torch.stack(wanted))


@pytest.mark.parametrize(
    ("text", "spots"),
    [
        (" The letter K was at 40%", [(0, 4)]),
        (" The star was at 100%", [(0, 10)]),
        (" The star was at 10%", [(0, 1)]),
        (" The letter K in the last third.", [(1, 2)]),
        (" Where in the film is the star: in the first, middle or last third?", []),
        (" The star was on red", []),
    ],
)
def test_where_answers_say_a_time(processor, text, spots):
    words = TimeWords(processor.tokenizer)
    assert [spot for spot in words.spots(processor.tokenizer.encode(text)) if spot is not None] == spots


def test_other_heads_are_refused():
    for heads, layers in ((2, 6), (4, 5)):
        text = Qwen2Config(hidden_size=128, num_attention_heads=heads, num_key_value_heads=2, num_hidden_layers=layers)
        with pytest.raises(ValueError, match=f"{heads} heads on 2 of keys"):
            check_heads(type("Model", (), {"config": type("Config", (), {"text_config": text})})())
