"""Needles: every answer against its film read whole; resumption, sums, files of the user's."""

import json

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.evaluation.conftest import PREFIX
from videoxl.cli import main
from videoxl.evaluation.answerer import Answerer
from videoxl.evaluation.haystacks import Trials, read_haystack, read_needles
from videoxl.evaluation.niah import NiahSettings, run_niah
from videoxl.synthetic.films import Film
from videoxl.synthetic.needles import overlay
from videoxl.synthetic.tasks import needle_sample

LETTERS = "ABCD"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().strip("\n").split("\n")][1:]


def shown_film(frames, film, needle, depth, seed=0):
    """The film of one question, drawn anew: the first sample's background, one needle."""
    first = seed * 1_000_000 + film * 5
    background = needle_sample("test", first, frames, depth).film
    sample = needle_sample("test", first + needle, frames, depth)
    return Film(background.seed, frames, sample.film.needles), sample.questions[0]


@pytest.mark.parametrize("answers, prefix", [("free", None), ("letter", PREFIX)])
def test_answers_are_those_of_each_film_read_whole(pipe, plain_reply, tmp_path, answers, prefix):
    """Ratios that divide the window of 48 tokens, one that does not, and none."""
    settings = NiahSettings((3, 40), (0, 60, 100), (0, 5, 16), questions=6, seed=2, answers=answers)
    summary = run_niah(pipe, settings, tmp_path)
    lines = lines_of(tmp_path)
    assert len(lines) == 2 * 2 * 3 * 3
    replies = set()
    for line in lines:
        assert len(line["answers"]) == (5, 1)[line["film"]]
        assert line["place"] == {0: 0, 60: round(0.6 * (line["frames"] - 1)), 100: line["frames"] - 1}[line["depth"]]
        for needle, answer in enumerate(line["answers"][:2]):
            film, question = shown_film(line["frames"], line["film"], needle, line["depth"], seed=2)
            asked = f"{question.text}\n" + "\n".join(f"({a}) {b}" for a, b in zip(LETTERS, question.options))
            assert answer["question"] == question.text
            expected = plain_reply(film.array(), asked, line["ratio"], 40, prefix)
            assert answer["reply"] == expected, line
            assert answer["right"] == question.is_right(expected, multiple_choice=True)
            replies.add(expected)
    assert len(replies) > 1  # else equality would say little
    cells = {
        (ratio["ratio"], cell["frames"], cell["depth"]): cell for ratio in summary["ratios"] for cell in ratio["cells"]
    }
    head = lines[0]["kept"]["sink"]
    assert {key: cell["kept_tokens"] - head for key, cell in cells.items() if key[2] == 60} == {
        (0, 3, 60): 12,
        (0, 40, 60): 160,
        (5, 3, 60): 2,
        (5, 40, 60): 32,
        (16, 3, 60): 0,
        (16, 40, 60): 10,
    }
    assert [ratio["vsts_per_frame"] for ratio in summary["ratios"]] == [None, 0.8, 0.25]


@pytest.mark.parametrize("ratio", [0, 4, 5, 48])
def test_going_on_from_a_border_leaves_the_memory_of_the_whole(pipe, ratio):
    answerer = Answerer(pipe)
    film, question = shown_film(80, 0, 0, 80)
    place = film.needles[0][0]
    features = answerer.features(film.chunks())
    border = answerer.last_border(place, ratio)
    assert 0 < border <= 4 * place
    bare = answerer.features(Film(film.seed, 80).chunks())
    assert torch.equal(bare[:border], features[:border])
    assert not torch.allclose(bare[4 * place : 4 * place + 4], features[4 * place : 4 * place + 4], atol=1e-2)
    memories = []
    for parts in ([bare[:border], features[border:]], [features], [bare]):
        memory = answerer.new_memory()
        for part in parts:
            answerer.extend(memory, [part], ratio)
        memories.append(memory)
    reused, whole, other = (torch.cat([layer.keys for layer in memory.layers], dim=1) for memory in memories)
    assert torch.allclose(reused, whole, atol=1e-5)
    assert reused.shape == other.shape
    assert not torch.allclose(reused, other, atol=1e-3)
    assert memories[0].summary() == memories[1].summary()
    tail = torch.tensor([answerer.tail(question, multiple_choice=True)])
    with torch.no_grad():
        logits = [answerer.model(tail, past_key_values=memory).logits for memory in memories]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert not torch.allclose(logits[0], logits[2], atol=1e-4)


def test_a_stopped_run_goes_on_where_it_was(pipe, tmp_path):
    settings = NiahSettings(frames=(6, 13), depths=(0, 100), ratios=(4,), questions=6)
    whole = run_niah(pipe, settings, tmp_path / "whole")
    content = (tmp_path / "whole" / "results.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 2 * 2
    stopped = tmp_path / "stopped" / "results.jsonl"
    stopped.parent.mkdir()
    for kept in (b"", lines[0][:20], lines[0], b"".join(lines[:4]), b"".join(lines[:4]) + lines[4][:50]):
        stopped.write_bytes(kept)
        resumed = run_niah(pipe, settings, stopped.parent)
        assert resumed["ratios"][0]["interval"] == whole["ratios"][0]["interval"]
        after = stopped.read_bytes().splitlines(keepends=True)
        done = kept.count(b"\n")
        assert after[:done] == lines[:done]  # nothing is asked twice: their seconds are those of then
        answers = [json.loads(line)["answers"] for line in after[1:]]
        assert answers == [json.loads(line)["answers"] for line in lines[1:]]
    run_niah(pipe, settings, stopped.parent)
    assert stopped.read_bytes().splitlines(keepends=True) == after


def test_more_lengths_and_ratios_go_on_in_the_same_file_and_other_settings_do_not(pipe, tmp_path):
    run_niah(pipe, NiahSettings(frames=(4,), depths=(50,), ratios=(4,), questions=1), tmp_path)
    summary = run_niah(pipe, NiahSettings(frames=(5, 4), depths=(50,), ratios=(2, 4), questions=1), tmp_path)
    assert len(lines_of(tmp_path)) == 4
    assert summary["questions"] == 4
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"questions=1, now 2\).*another --output"):
        run_niah(pipe, NiahSettings(frames=(4,), depths=(50,), ratios=(4,), questions=2), tmp_path)
    with pytest.raises(ValueError, match="seed=0, now 1"):
        run_niah(pipe, NiahSettings(frames=(4,), depths=(50,), ratios=(4,), questions=1, seed=1), tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_other_weights_are_other_settings(pipe, tmp_path):
    settings = NiahSettings(frames=(4,), depths=(50,), ratios=(4,), questions=1)
    run_niah(pipe, settings, tmp_path)
    weight = pipe.model.model.language_model.layers[1].mlp.down_proj.weight
    weight.data[-1, -1] += 1e-3
    try:
        with pytest.raises(ValueError, match="model="):
            run_niah(pipe, settings, tmp_path)
    finally:
        weight.data[-1, -1] -= 1e-3


@pytest.mark.parametrize("content", ['{"name": "notes"}\n', "[1, 2]\n", "notes\n", "notes"])
def test_a_file_of_somebody_elses_is_left_alone(pipe, tmp_path, content):
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"results\.jsonl.*another --output"):
        run_niah(pipe, NiahSettings(frames=(4,), depths=(50,), ratios=(4,), questions=1), tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == content


def test_sums_and_pictures_of_known_answers(pipe, tmp_path, capsys):
    """Answers written by hand: 2 lengths x 2 depths x 2 ratios, four questions each, 27 right of 32."""
    settings = NiahSettings(frames=(4, 6), depths=(0, 100), ratios=(2, 4), questions=4)
    run_niah(pipe, settings, tmp_path)
    path = tmp_path / "results.jsonl"
    head, *lines = [json.loads(line) for line in path.read_text().strip("\n").split("\n")]
    right = {(2, 4, 0): 4, (2, 4, 100): 4, (2, 6, 0): 4, (2, 6, 100): 4}
    right |= {(4, 4, 0): 4, (4, 4, 100): 4, (4, 6, 0): 3, (4, 6, 100): 0}
    for line in lines:
        for place, answer in enumerate(line["answers"]):
            answer["right"] = place < right[line["ratio"], line["frames"], line["depth"]]
        line["seconds"] = 1.5
    path.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    summary = run_niah(pipe, settings, tmp_path)
    assert summary["mean"] == 27 / 32
    assert summary["seconds"] == 12.0
    assert [ratio["mean"] for ratio in summary["ratios"]] == [1.0, 11 / 16]
    low, high = summary["ratios"][1]["interval"]
    assert (round(low, 4), round(high, 4)) == (0.4440, 0.8584)  # a calculator's, of 11 in 16
    assert [cell["score"] for cell in summary["ratios"][1]["cells"]] == [1, 1, 0.75, 0]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    pictures = [np.asarray(Image.open(tmp_path / f"heat_map_{ratio}x.png").convert("RGB")) for ratio in (2, 4)]
    found, missed = (
        (np.abs(pictures[1].astype(int) - colour).max(-1) < 6) for colour in ((17, 99, 95), (143, 45, 31))
    )
    # Three cells of a colour beside one of another: found above, missed below on the right.
    cells = np.argwhere(found), np.argwhere(missed)
    assert len(cells[0]) > 1.4 * len(cells[1]) > 5000
    middle = [np.median(cell, axis=0) for cell in cells]
    assert (middle[1] > middle[0]).all()
    assert (np.abs(pictures[0].astype(int) - (143, 45, 31)).max(-1) < 6).sum() < 0.1 * missed.sum()


def film_file(path, frames):
    """A film of single colours, each frame its own; 48 x 64 pixels."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for index in range(frames):
            picture = np.full((48, 64, 3), 20 * index % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


def test_a_video_file_is_sampled_evenly_or_looped(pipe, tmp_path):
    path = film_file(tmp_path / "film.mkv", 10)
    brightness = [20 * index for index in range(10)]
    few, many = (read_haystack(path, frames, pipe.processor) for frames in (4, 23))
    assert [round(few.frame(index).mean()) for index in range(4)] == [0, 60, 120, 180]
    assert [round(many.frame(index).mean()) for index in range(23)] == [*brightness, *brightness, *brightness[:3]]
    chunks = list(many.chunks(16))
    assert [len(chunk) for chunk in chunks] == [16, 7]
    assert np.array_equal(np.concatenate(chunks)[13], many.frame(3))
    given = pipe.processor.video_processor(str(path), num_frames=4)["pixel_values_videos"][0]
    again = pipe.processor.video_processor(few.pictures, do_sample_frames=False)["pixel_values_videos"][0]
    assert torch.equal(given, again)


def test_many_needles_in_one_film_are_read_in_several_batches(pipe, plain_reply, tmp_path):
    path = film_file(tmp_path / "film.mkv", 10)
    settings = NiahSettings(frames=(16,), depths=(90,), ratios=(4,), haystack=path, questions=18)
    run_niah(pipe, settings, tmp_path / "out")
    (line,) = lines_of(tmp_path / "out")
    assert len(line["answers"]) == 18 > Answerer(pipe).rows_at_once(64, 4)
    pictures = pipe.processor.video_processor(str(path), do_sample_frames=False, do_rescale=False, do_normalize=False)
    film = pictures["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy().astype(np.uint8)
    film = np.concatenate([film, film[:6]])  # looped
    for number in (0, 15, 16, 17):
        sample = needle_sample("test", number, 16, 90)
        ((_, needle),) = sample.film.needles
        shown = film.copy()
        shown[14] = overlay(film[14], needle)
        asked = sample.questions[0].prompt(multiple_choice=True)
        assert line["answers"][number]["reply"] == plain_reply(shown, asked, 4, 40)


def test_long_memories_are_read_one_after_the_other(pipe):
    answerer = Answerer(pipe)
    memory = answerer.new_memory()
    answerer.extend(memory, [answerer.features(Film(1, 12).chunks())], 0)
    entry = memory.summary()["bytes"] / memory.physical_length
    tokens = int(2**26 / entry / 3.5)  # three and a half such memories in 64 MiB
    assert answerer.rows_at_once(tokens, 0) == 3
    assert answerer.rows_at_once(2 * tokens, 2) == 3
    assert answerer.rows_at_once(100 * tokens, 0) == 1


def picture_needles(folder, count=3):
    folder.mkdir(exist_ok=True)
    entries = []
    for number in range(count):
        picture = Image.new("RGB", (80 + 20 * number, 70), (250, 40 * number, 30))
        ImageDraw.Draw(picture).ellipse((10, 10, 60, 60), (0, 0, 200))
        picture.save(folder / f"{number}.png")
        options = [f"picture {other}" for other in range(count)]
        entries.append({"image": f"{number}.png", "question": "What is it?", "options": options, "answer": number})
    (folder / "needles.json").write_text(json.dumps(entries))
    return folder, entries


def test_own_needles_in_an_own_film(pipe, plain_reply, tmp_path):
    path = film_file(tmp_path / "film.mkv", 10)
    folder, entries = picture_needles(tmp_path / "needles")
    settings = NiahSettings(frames=(14,), depths=(0, 50), ratios=(4,), haystack=path, needles=folder)
    run_niah(pipe, settings, tmp_path / "out")
    process = pipe.processor.video_processor
    film = process(str(path), do_sample_frames=False)["pixel_values_videos"][0]
    film = torch.cat([film, film[:4]])  # looped
    lines = lines_of(tmp_path / "out")
    assert [line["place"] for line in lines] == [0, 6]
    for line in lines:
        assert len(line["answers"]) == 3  # one film, all needles
        for answer, entry in zip(line["answers"], entries):
            assert answer["options"][answer["correct"]] == entry["options"][entry["answer"]]
            assert sorted(answer["options"]) == sorted(entry["options"])
            shown = film.clone()
            picture = Image.open(folder / entry["image"])
            shown[line["place"]] = process([picture], do_sample_frames=False)["pixel_values_videos"][0][0]
            asked = "What is it?\n" + "\n".join(f"({a}) {b}" for a, b in zip(LETTERS, answer["options"]))
            assert answer["reply"] == plain_reply(shown, asked, 4, 40)


def test_more_questions_than_own_needles_take_them_in_turn_with_other_orders(pipe, tmp_path):
    folder, _ = picture_needles(tmp_path / "needles", count=4)
    trials = Trials(pipe.processor, 0, 12, None, read_needles(folder))
    assert trials.films == 3
    needles = [needle for film in range(3) for needle in trials.trial(8, film).needles]
    assert len(needles) == 12
    truths = [needle.question.options[needle.question.correct] for needle in needles]
    assert truths == [f"picture {number % 4}" for number in range(12)]
    assert len({needle.question.options for needle in needles}) > 3


WRONG_NEEDLES = {
    "no list": ({"image": "0.png"}, "list of at least one"),
    "none": ([], "list of at least one"),
    "no object": ([3], "needle 0"),
    "field missing": ([{"image": "0.png", "question": "?", "options": ["a", "b"]}], "needle 0"),
    "field unknown": ({"hint": "x"}, "needle 1"),
    "no question": ({"question": " "}, "needle 1: 'question'"),
    "one option": ({"options": ["a"]}, "needle 1: 'options'"),
    "five options": ({"options": list("abcde")}, "needle 1: 'options'"),
    "same options": ({"options": ["a", "a"]}, "needle 1: 'options'"),
    "numbers as options": ({"options": [1, 2]}, "needle 1: 'options'"),
    "answer beyond": ({"answer": 3}, "needle 1: 'answer'"),
    "answer as text": ({"answer": "picture 1"}, "needle 1: 'answer'"),
    "answer true": ({"answer": True}, "needle 1: 'answer'"),
    "no picture": ({"image": "9.png"}, "9.png"),
    "no name": ({"image": None}, "needle 1: 'image'"),
    "not a picture": ({"image": "needles.json"}, "cannot be read as PNG or JPEG"),
}


@pytest.mark.parametrize("case", WRONG_NEEDLES)
def test_wrong_needles_are_named(case, checkpoint, tmp_path, capsys):
    change, said = WRONG_NEEDLES[case]
    folder, entries = picture_needles(tmp_path / "needles")
    if isinstance(change, dict) and case != "no list":
        entries[1] |= change
        change = entries
    (folder / "needles.json").write_text(json.dumps(change))
    assert main(["eval", "niah", "--model", str(checkpoint), "--needles", str(folder)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "needles.json" in error


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--haystack", "missing.mp4"], "missing.mp4"),
        (["--haystack", __file__], "test_niah.py"),
        (["--needles", "missing"], "needles.json"),
        (["--frames", "0"], "frames=[0]"),
        (["--frames", "8,-1"], "frames=[-1, 8]"),
        (["--depths", "0,101"], "depths=[0, 101]"),
        (["--depths", "nan"], "depths=[nan]"),
        (["--ratios", "49"], "a window of this model has 48 visual tokens"),
        (["--ratios", "-2"], "ratios=[-2]"),
        (["--questions", "0"], "questions=[0]"),
        (["--seed", "-1"], "seed=-1"),
        (["--answers", "shouted"], "answers='shouted'"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(arguments, said, checkpoint, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["eval", "niah", "--model", str(checkpoint), "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (output / "summary.json").exists()


@pytest.mark.parametrize("arguments", [["--frames", "8,x"], ["--frames", "8.5"], ["--ratios", ""], ["--depths", ","]])
def test_lists_that_are_none_are_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "niah", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_command_prints_one_object_and_names_its_folder_for_the_settings(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["eval", "niah", "--model", str(checkpoint), "--frames", "5", "--depths", "0,50.5", "--ratios", "2,4"]
    command += ["--questions", "1"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["mean"] == printed["right"] / 4
    assert [ratio["ratio"] for ratio in printed["ratios"]] == [2, 4]
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "heat_map_2x.png",
        "heat_map_4x.png",
        "results.jsonl",
        "summary.json",
    ]
    assert main([*command, "--seed", "1"]) == 0
    words = capsys.readouterr().out
    assert "2x, 2 VSTs a frame" in words
    assert "4x, 1 VST a frame" in words
    assert len(list(tmp_path.iterdir())) == 2
