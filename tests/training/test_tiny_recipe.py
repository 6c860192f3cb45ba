"""The small checkpoint's recipe, at a thousandth of its length."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from training_rows import STEPS
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2ForCausalLM
from transformers.models.clip.modeling_clip import CLIPVisionModel

from videoxl.synthetic.films import Film
from videoxl.synthetic.needles import COLOURS, Needle, colours_of
from videoxl.synthetic.tasks import draw_sample, needle_sample, sentences
from videoxl.training.assembly import assemble
from videoxl.training.tiny_album import AlbumCollator, AlbumFrames, encode_album
from videoxl.training.tiny_data import (
    NO_COLOUR,
    NO_SIGN,
    SIGNS,
    UNKNOWN,
    SingleFrames,
    TaskRows,
    spelled,
    turns,
    words_of,
)
from videoxl.training.tiny_parts import (
    CHAT_WORDS,
    FrameCollator,
    FrameReader,
    image_processor,
    normalized,
    text_config,
    train_tokenizer,
    vision_config,
)
from videoxl.training.tiny_recipe import Recipe, main
from videoxl.training.tiny_start import start_attention, start_beacons
from videoxl.training.tiny_words import FrameSpeller, SpelledCollator, bags


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of a recipe that has run to its end."""
    folder = tmp_path_factory.mktemp("recipe")
    Recipe(settings, folder, seed=0, processes=1).run()
    return folder


def losses(folder):
    """Every stage's losses, step by step."""
    stages = [path for path in sorted(folder.glob("*/finished.json")) if "log" in json.loads(path.read_text())]
    return {
        path.parent.name: [line["loss"] for line in json.loads(path.read_text())["log"] if "loss" in line]
        for path in stages
    }


def test_ends_in_a_checkpoint_that_answers(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "checkpoint").eval()
    processor = AutoProcessor.from_pretrained(finished / "checkpoint")
    assert model.config.tokens_per_frame >= 16 and model.config.text_config.beacon_window >= 8 * 16
    assert model.config.text_config.beacon_ratio == [2, 4, 8, 12, 16]
    chat = [
        {
            "role": "user",
            "content": [{"type": "video", "video": Film(1, 20).array()}, {"type": "text", "text": "What was shown?"}],
        }
    ]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert tokens.shape[1] <= inputs["input_ids"].shape[1] + 3


def test_leaves_every_loss_and_the_curves(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    for stage, values in losses(finished).items():
        assert [line["loss"] for line in lines if line["stage"] == stage] == values
    with Image.open(finished / "curves.png") as picture:
        assert picture.width > picture.height > 100


def test_the_checkpoint_names_no_folder_of_this_machine(finished):
    said = "".join(
        path.read_text() for path in (finished / "checkpoint").glob("*.json") if path.name != "finished.json"
    )
    assert str(finished) not in said and "vision_config" in said


def test_every_stage_learned_something_else(finished):
    seen = losses(finished)
    assert len(seen) == 6 and all(len(stage) == STEPS for stage in seen.values())
    told = max(name for name in seen if name.startswith("spelled"))
    projector, both = (name for name in seen if name.startswith("seeing"))
    album = max(name for name in seen if name.startswith("album"))
    before, words, pictures, tuned, after = (
        AutoModelForCausalLM.from_pretrained(finished / stage / "model").state_dict()
        for stage in ("assembled", told, projector, both, album)
    )
    changed = {name for name in before if not torch.equal(before[name], words[name])}
    assert changed and all("language_model" in name or "lm_head" in name for name in changed)
    changed = {name for name in words if not torch.equal(words[name], pictures[name])}
    assert any("projector" in name for name in changed) and not any("language_model" in name for name in changed)
    tower = CLIPVisionModel.from_pretrained(finished / "vision" / "tower").state_dict()
    assert all(torch.equal(tensor, pictures[f"model.vision_tower.{name}"]) for name, tensor in tower.items())
    changed = {name for name in pictures if not torch.equal(pictures[name], tuned[name])}
    assert any("vision_tower" in name for name in changed) and not any("language_model" in name for name in changed)
    unchanged = {name for name in tuned if torch.equal(tuned[name], after[name])}
    # The album was seen once. Nothing asks the last layer's VSTs' queries: of those VSTs only keys and values count.
    resting = {name for name in tuned if "vision_tower" in name or "projector" in name}
    assert unchanged - resting <= {name for name in tuned if "layers.1.self_attn.beacon_q_proj" in name}
    assert resting <= unchanged


def test_stopped_and_gone_on_with_it_is_the_same(settings, finished, tmp_path, monkeypatch):
    stopped = 0

    def interrupt(self, args, state, control, **kwargs):
        nonlocal stopped
        if state.global_step == 2 and not stopped and "album" in args.output_dir:
            stopped += 1
            raise KeyboardInterrupt

    monkeypatch.setattr("videoxl.training.callbacks.RunLog.on_step_begin", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Recipe(settings, tmp_path, seed=0, processes=1).run()
    assert not (tmp_path / "checkpoint").exists()
    Recipe(settings, tmp_path, seed=0, processes=1).run()
    assert stopped == 1
    for name, values in losses(finished).items():
        np.testing.assert_allclose(losses(tmp_path)[name], values, rtol=1e-5)


def test_two_processes_share_the_batches_and_lose_the_same(settings, finished, tmp_path):
    """The last spelled stage, in a process of its own, and all behind it again, in the other's folder but for them."""
    apart = losses(finished)
    shared = [name for name in apart if name.startswith(("spelled-1", "seeing", "album"))]
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint", *shared))
    Recipe(settings, tmp_path, seed=0, processes=2).run()
    together = losses(tmp_path)
    for name in shared:
        np.testing.assert_allclose(together[name], apart[name], rtol=0.01)  # bfloat16, summed otherwise


def test_what_is_left_of_the_vision_tower_s_stage_is_shared(settings, finished, tmp_path):
    """It goes on, in two processes, from the checkpoint behind its second step, which one process had written."""
    shutil.copytree(
        finished, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seeing*", "album*", "check*")
    )
    shutil.copytree(finished / "vision" / "run", tmp_path / "vision" / "run", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "vision" / "run" / f"checkpoint-{STEPS}")
    (tmp_path / "vision" / "finished.json").unlink()
    log = tmp_path / "vision" / "run" / "log.jsonl"
    before = json.loads(log.read_text().splitlines()[1])
    log.write_text(json.dumps({**before, "seconds": 1000.0}) + "\n")
    Recipe(settings, tmp_path, seed=0, processes=2).run()
    assert json.loads((tmp_path / "vision" / "finished.json").read_text())["seconds"] > 1000  # both parts of it
    last = tmp_path / "vision" / "run" / f"checkpoint-{STEPS}"
    assert {path.name for path in last.glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }  # each left its own
    assert losses(tmp_path)["vision"] == pytest.approx(losses(finished)["vision"], rel=0.01)


def test_another_recipe_in_the_same_folder_is_refused(settings, finished):
    with pytest.raises(ValueError, match="another recipe or seed: parts, assembled, vision"):
        Recipe(settings, finished, seed=1).run()
    longer = {**settings, "album": [{**settings["album"][0], "steps": STEPS + 1}]}
    with pytest.raises(ValueError, match="another recipe or seed: album-0-last, checkpoint; remove them"):
        Recipe(longer, finished, seed=0).run()


def test_stages_that_have_not_begun_may_be_changed(settings, finished, tmp_path):
    left_out = shutil.ignore_patterns("checkpoint", "album*")
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, ignore=left_out)
    longer = {**settings, "album": [{**settings["album"][0], "steps": STEPS + 1}]}
    Recipe(longer, tmp_path, seed=0, processes=1).run()
    told = {name: len(values) for name, values in losses(tmp_path).items()}
    assert told.pop("album-0-last") == STEPS + 1 and set(told.values()) == {STEPS}


def test_the_command_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "--output" in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_run_in_a_sentence(finished, tmp_path, capsys):
    for wrong, told in (
        ([str(tmp_path), "--config", "tinny"], "no configuration 'tinny'; the package has"),
        ([str(tmp_path), "--config", "stage1_projector"], "no recipe: it lacks tokenizer_films, text"),
        ([str(finished), "--seed", "7"], "stages of another recipe or seed: parts"),
        ([str(finished / "log.jsonl")], "log.jsonl is a file: give a folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["--output", *wrong])
        assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_single_frames_are_what_they_say():
    rows = SingleFrames(200, seed=0)
    classes = np.array([[rows[index]["sign"], rows[index]["colour"]] for index in range(200)])
    assert 0.1 < (classes[:, 0] == NO_SIGN).mean() < 0.3 and len(np.unique(classes[:, 0])) > 30
    for sign, colour in classes:
        kind, value = SIGNS[sign] if sign < NO_SIGN else ("anomaly", "")
        assert (colour == NO_COLOUR) == (kind == "anomaly") and (colour == UNKNOWN) == (kind == "advertisement")
        if 0 <= colour < NO_COLOUR:
            assert list(COLOURS)[colour] in colours_of("train", kind, value)
    again = SingleFrames(200, seed=0)[137]
    assert torch.equal(again["pixels"], rows[137]["pixels"])


def test_practice_cards_show_a_sign_or_a_colour_never_both():
    rows = SingleFrames(200, seed=0, practice=1.0)
    known = np.array([[rows[index][name] != UNKNOWN for name in ("sign", "colour")] for index in range(200)])
    assert (known.sum(1) == 1).all() and 0.4 < known[:, 0].mean() < 0.8
    for index in range(200):
        row = rows[index]
        if row["sign"] != UNKNOWN:
            assert SIGNS[row["sign"]][0] in ("number", "letter", "symbol")
        plate = np.array(list(COLOURS.values()))[:, None, None]
        near = (np.abs(row["pixels"].numpy() - plate).max(-1) < 15).mean((1, 2))  # of the frame, by named colour
        if row["colour"] != UNKNOWN:
            assert near[row["colour"]] > 0.08


def test_a_film_in_words_is_the_sum_of_its_words_in_every_visual_token(finished):
    processor = AutoProcessor.from_pretrained(finished / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(finished / "checkpoint")
    rows = [TaskRows(2, 2, (3, 9), 2, seed=5)[index] for index in range(2)]
    batch = SpelledCollator(processor)(rows)
    assert "pixel_values_videos" not in batch
    tokens = (batch["input_ids"] == model.config.video_token_id).sum(1).tolist()
    assert tokens == [16 * len(row["spelled"]) for row in rows]
    table = model.get_input_embeddings().weight
    for row, ids in zip(rows, batch["films"]):
        for frame, sent in zip(row["spelled"], bags(ids, table)):
            words = processor.tokenizer(frame, add_special_tokens=False)["input_ids"]
            torch.testing.assert_close(sent, sum(table[word] for word in words))
            assert processor.tokenizer.decode(words) == frame


def test_the_projector_learns_to_send_what_words_send(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "checkpoint")
    tokenizer = AutoProcessor.from_pretrained(finished / "checkpoint").tokenizer
    speller = FrameSpeller(model, tokenizer, ["projector"])
    batch = FrameCollator()([SingleFrames(8, 1)[index] for index in range(8)])
    sent = speller(**batch)["sent"]  # [B, M, D]
    torch.testing.assert_close(
        sent.flatten(0, 1), model.get_video_features([batch["pixel_values"]]).pooler_output[0], rtol=1e-4, atol=1e-5
    )
    table = model.get_input_embeddings().weight
    for sign, colour in zip(batch["sign"].tolist(), batch["colour"].tolist()):
        kind, value = SIGNS[sign] if sign < NO_SIGN else ("", "")
        shown = Needle(kind, value, "red" if kind != "anomaly" else "") if kind else None
        words = words_of(shown).replace(" red", f" {list(COLOURS)[colour]}" if 0 <= colour < NO_COLOUR else "")
        wanted = sum(table[word] for word in tokenizer(words, add_special_tokens=False)["input_ids"])
        place = colour if colour != UNKNOWN else NO_COLOUR
        torch.testing.assert_close(speller.signs[sign] + speller.colours[place], wanted)
    parts = [name for name, weight in speller.named_parameters() if weight.requires_grad]
    assert parts and all(name.startswith("projector") for name in parts)
    shown = {name: batch[name] for name in ("pixel_values", "sign")}
    missed = [speller(**shown, colour=torch.full((8,), number))["loss"].item() for number in (0, 1, UNKNOWN)]
    assert missed[0] != missed[1] and missed[2] < min(missed[:2])


def test_a_frame_reader_sees_what_the_processor_makes():
    rows = [SingleFrames(4, 1)[index] for index in range(4)]
    batch = FrameCollator()(rows)
    made = image_processor()([row["pixels"].numpy() for row in rows], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], made, rtol=0, atol=1e-5)
    reader = FrameReader(vision_config(32, 1))
    assert reader(**batch)["loss"].item() == pytest.approx(np.log(NO_SIGN + 1) + np.log(NO_COLOUR + 1), rel=0.2)


def test_rows_of_a_batch_go_together():
    rows = TaskRows(6, 3, (2, 32), 2, seed=5)
    assert len(rows) == 18
    lengths = [[len(rows[3 * batch + n]["spelled"]) for n in range(3)] for batch in range(6)]
    assert all(len(set(batch)) == 1 for batch in lengths) and len({batch[0] for batch in lengths}) > 2
    assert all(2 <= batch[0] <= 32 for batch in lengths)
    assert len({rows[index]["ratio_key"] for index in range(18)}) == 6
    assert rows[4]["conversations"] == TaskRows(6, 3, (2, 32), 2, seed=5)[4]["conversations"]
    assert rows[4]["conversations"] != TaskRows(6, 3, (2, 32), 2, seed=6)[4]["conversations"]


def test_an_album_shows_on_every_page_what_its_words_say(finished):
    """What the tower sent for a page is what the model makes of that picture, alone and as a film of one frame."""
    model = AutoModelForCausalLM.from_pretrained(finished / "checkpoint").eval()
    processor = AutoProcessor.from_pretrained(finished / "checkpoint")
    frames = AlbumFrames(looks=1, scenes=3, seed=0)
    pages = frames.pages()
    assert sorted(page for found in pages.values() for page in found) == list(range(len(frames)))
    assert set(pages) == {words_of(needle and Needle(*needle)) for needle in frames.shown}
    tested = {words_of(Needle(kind, value, colours_of("test", kind, value)[0])) for kind, value in SIGNS[:37]}
    assert len(pages[" film"]) == 24 and not tested & set(pages)
    album = encode_album(model, frames, workers=0)  # [pages, M, D]
    for page in (0, len(frames) - 1):
        pixels = normalized(torch.from_numpy(frames[page])[None])
        sent = model.get_video_features([pixels]).pooler_output[0]  # [M, D]
        torch.testing.assert_close(album[page].float(), sent.float(), rtol=0.1, atol=0.05)
    collator = AlbumCollator(processor, pages=pages)
    row = {"id": "a", "spelled": [" film", " letter K red", " film"]}
    film = collator.code(row)
    assert film.tolist() == collator.code(row).tolist() and film[1] in pages[" letter K red"]
    assert {int(film[0]) // 8, int(film[2]) // 8} <= {page // 8 for page in pages[" film"]}


def test_training_offers_no_pair_that_it_never_shows():
    """Else it could be learned that they are wrong, and in the test they are right."""
    offered = 0
    for number in range(150):
        for question in draw_sample("train", number, 40, questions=12, among=("retrieval", "absence")).questions:
            named = re.search(r"the (letter|number) (\S)\b", question.text)
            if named and set(question.options) & set(COLOURS):
                allowed = {*colours_of("train", named[1], named[2]), "it was not shown"}
                assert set(question.options) <= allowed, question
                offered += 1
            asked = re.search(rf"\b({'|'.join(COLOURS)})\b", question.text)
            if asked and question.answer.startswith("On "):
                signs = [sign for sign in SIGNS if sign[1] in question.options]
                assert all(asked[1] in colours_of("train", *sign) for sign in signs), question
                offered += 1
    assert offered > 200
    tested = [needle_sample("test", number, 3, 50).questions[0] for number in range(60)]
    assert len({option for question in tested for option in question.options} & set(COLOURS)) == len(COLOURS)


def test_conversations_and_films_in_words():
    star = Needle("symbol", "star", "red", 1)
    film = Film(0, 6, ((1, star), (2, Needle("number", "7", "blue", 1)), (4, Needle("anomaly", "static"))))
    frames = spelled(film)
    assert [frame.split() for frame in frames[:3]] == [["film"], ["symbol", "star", "red"], ["number", "7", "blue"]]
    assert frames[4].split() == ["pattern", "static"] and len(frames) == 6
    questions = draw_sample("train", 3, 64, questions=4).questions
    conversation = turns(questions, np.random.default_rng(0), "<image>")
    assert conversation[0]["value"].startswith("<image>\n") and "<image>" not in conversation[2]["value"]
    assert [turn["from"] for turn in conversation[:2]] == ["human", "gpt"]
    for asked, said in zip(conversation[::2], conversation[1::2]):
        text = asked["value"].removeprefix("<image>\n")
        ways = [(q.prompt(way), q.reply(way)) for q in questions for way in (0, 1)]
        ways += [(q.prompt(True), f"Best option: ({'ABCD'[q.correct]})") for q in questions]
        assert (text, said["value"]) in ways


def test_the_tokenizer_writes_anything_and_keeps_letters_apart():
    tokenizer = train_tokenizer(sentences("train", 30))
    for text in ("Best option: (B)", "Grüße, 你好 🎬\n\tfn(x) = 42;", "the letter K"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("Best option: (B)")[-3:] == [*tokenizer.tokenize("Best option: (")[-1:], "B", ")"]


def test_the_checkpoint_splits_texts_as_its_tokenizer_was_trained_to(finished):
    """A digit takes its space along as a letter does; by Qwen2's splitting, which loading would impose, not."""
    tokenizer = AutoProcessor.from_pretrained(finished / "checkpoint").tokenizer
    assert tokenizer.tokenize("(A) 8\n(B) K") == ["(", "A", ")", "Ġ8", "Ċ", "(", "B", ")", "ĠK"]


def test_attention_starts_by_finding_what_was_named_before():
    """
    Behind "A x, B y, C z … y (" a head of the second layer looks at y, for one of the first has looked two back; and
    behind "x a, y b, … y" another one at b.
    """
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(text_config(200, 128, 3))
    model.set_attn_implementation("eager")
    start_attention(model, seed=0)

    def attention(*ids):
        return [layer[0, :, -1] for layer in model(torch.tensor([ids]), output_attentions=True).attentions]  # [H, T]

    named, back, copied = 0, 0.0, 0
    for trial in range(40):
        words = (torch.randperm(180, generator=torch.Generator().manual_seed(trial))[:8] + 10).tolist()
        asked = trial % 4
        listed = [token for letter in range(4) for token in (letter, 5, words[letter], 6)]
        first, second, _ = attention(*listed, 7, words[asked], 8, 9)
        back += float(first[3, len(listed) + 1]) / 40
        named += int(second[2, 2 : len(listed) : 4].argmax()) == asked
        second = attention(*words, 5, 6, words[2 * asked])[1]
        copied += int(second[0, 1:8:2].argmax()) == asked
    assert named >= 22 and copied >= 22 and back > 0.3  # by chance 10, 10 (standard deviation 2.7), 0.05


def test_vsts_start_by_being_found_by_what_they_saw(tmp_path):
    """Three frames of other words each; behind "y was on", a head of the second layer asks for the VST that saw y."""
    tokenizer = train_tokenizer([CHAT_WORDS, *sentences("train", 30)])
    torch.manual_seed(0)
    text = Qwen2ForCausalLM(text_config(len(tokenizer), 128, 3))
    start_attention(text, seed=0)
    text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    CLIPVisionModel._from_config(vision_config(32, 1)).save_pretrained(tmp_path / "tower")
    image_processor().save_pretrained(tmp_path / "tower")
    assemble(tmp_path / "text", tmp_path / "tower", tmp_path / "model", window=144)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    table, video = model.get_input_embeddings().weight, model.config.video_token_id
    attention, told = model.model.language_model.layers[1].self_attn, {}
    attention.beacon_k_proj.register_forward_hook(lambda _, seen, out: told.update(keys=out))
    attention.q_proj.register_forward_hook(lambda _, seen, out: told.update(queries=out))

    def hits():
        found, scores = 0, []
        for trial in range(120):
            words = torch.randperm(len(tokenizer) - 50, generator=torch.Generator().manual_seed(trial))[:9] + 20
            film = bags(words.view(3, 3), table).repeat_interleave(16, 0)  # [F · M, D]
            asked = trial % 3
            ids = torch.tensor([[1, *[video] * 48, 5, 6, int(words[3 * asked + 1]), 7, 8]])
            with torch.no_grad():
                model(ids, mm_encoder_outputs={"video": [film]}, compression_ratio=16)
            query = told["queries"][0, -1].view(4, 32)[2]  # of the head that asks for the word two back
            found += int((told["keys"][0].view(3, 2, 32)[:, 1] @ query).argmax()) == asked
            scores.append(told["keys"][0].view(3, 2, 32)[:, 0] @ told["queries"][0, -1].view(4, 32)[0] / 32**0.5)
        return found, torch.cat(scores)

    before, seen = hits()
    start_beacons(model, seed=0)
    after, unseen = hits()
    assert after > 70 > 55 > before, before  # by chance 40, with a standard deviation of 5.2
    # The head that copies what a question names leaves VSTs alone.
    assert unseen.mean() < -4 and unseen.max() < 1 < seen.max()


def test_another_shape_of_heads_is_refused():
    config = text_config(50, 128, 1)
    config.num_key_value_heads = 4
    with pytest.raises(ValueError, match="4 heads on 4 of keys"):
        start_attention(Qwen2ForCausalLM(config), seed=0)


def test_ways_of_asking(settings):
    with pytest.raises(ValueError, match="shouted"):
        TaskRows(1, 1, (4, 4), 3, 0, ways=["shouted"])
    rows = TaskRows(20, 1, (4, 4), 3, 0, ways=["letter"], captions=0.0)
    replies = [turn["value"] for row in map(rows.__getitem__, range(20)) for turn in row["conversations"][1::2]]
    assert replies and all(reply.startswith("Best option: (") and len(reply) == 16 for reply in replies)
