"""Families of tasks: every answer against its film read whole, baselines and sums against plain counting."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import PREFIX
from videoxl.cli import main
from videoxl.evaluation.families import FamilySettings, Majority, run_families
from videoxl.evaluation.records import ResultLines
from videoxl.synthetic.questions import Question
from videoxl.synthetic.tasks import FAMILIES, draw_sample

LETTERS = "ABCD"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().strip("\n").split("\n")][1:]


@pytest.mark.parametrize("answers, prefix", [("free", None), ("letter", PREFIX)])
def test_answers_are_those_of_each_film_read_whole(pipe, plain_reply, tmp_path, answers, prefix):
    families = ("ordering", "time")
    settings = FamilySettings(families, frames=(14,), films=2, ratios=(0, 4), seed=1, answers=answers)
    run_families(pipe, settings, tmp_path)
    lines = lines_of(tmp_path)
    assert sorted((line["film"], line["way"]) for line in lines) == [
        (film, way) for film in (0, 1) for way in ("0x", "4x", "blind")
    ]
    for line in lines:
        sample = draw_sample("test", 1_000_000 + line["film"], 14, families[line["film"]], 3)
        assert len(line["answers"]) == 2 * len(sample.questions)
        film = None if line["way"] == "blind" else sample.film.array()
        ratio = None if film is None else int(line["way"][:-1])
        for number, answer in enumerate(line["answers"][:4]):
            question, chosen = sample.questions[number // 2], number % 2 == 1
            asked = question.text
            if chosen:
                asked += "\n" + "\n".join(f"({a}) {b}" for a, b in zip(LETTERS, question.options))
            assert (answer["family"], answer["form"]) == (families[line["film"]], ("open", "multiple choice")[chosen])
            assert answer["question"] == asked
            assert answer["reply"] == plain_reply(film, asked, ratio, 40, prefix if chosen else None), line["way"]
    replies = {
        way: [answer["reply"] for line in lines if line["way"] == way for answer in line["answers"]]
        for way in ("0x", "4x", "blind")
    }
    assert replies["0x"] != replies["4x"] != replies["blind"] != replies["0x"]  # else equality would say little


def test_a_stopped_run_goes_on_where_it_was(pipe, tmp_path):
    settings = FamilySettings(("counting", "absence"), frames=(10, 12), films=3, ratios=(4, 16))
    whole = run_families(pipe, settings, tmp_path / "whole")
    lines = [line + b"\n" for line in (tmp_path / "whole" / "results.jsonl").read_bytes().split(b"\n")[:-1]]
    assert len(lines) == 1 + 3 * 3
    path = tmp_path / "stopped" / "results.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"".join(lines[:5]) + lines[5][:70])
    resumed = run_families(pipe, settings, path.parent)
    assert resumed["scores"] == whole["scores"]
    assert sorted(path.read_bytes().split(b"\n")[1:-1]) == sorted(line.strip() for line in lines[1:])
    wider = FamilySettings(("counting", "absence"), frames=(10, 12), films=4, ratios=(4, 8, 16))
    assert run_families(pipe, wider, path.parent)["films"] == 4
    assert len(lines_of(path.parent)) == 4 * 4
    with pytest.raises(ValueError, match="families="):
        run_families(pipe, FamilySettings(("counting",), frames=(10, 12), films=3, ratios=(4,)), path.parent)


def test_replies_may_hold_any_characters(tmp_path):
    """Also those that end lines in other files."""
    path, line = tmp_path / "results.jsonl", {"reply": "a\u2028b\x85c\x0cd\r\ne \x00"}
    ResultLines(path, {"seed": 1}).add(line)
    again = ResultLines(path, {"seed": 1})
    again.add(line)
    assert again.lines == ResultLines(path, {"seed": 1}).lines == [line, line]


def test_sums_of_known_answers(pipe, tmp_path):
    settings = FamilySettings(("retrieval", "anomaly"), frames=(12,), films=4, ratios=(0, 8))
    run_families(pipe, settings, tmp_path)
    path = tmp_path / "results.jsonl"
    head, *lines = [json.loads(line) for line in path.read_text().strip("\n").split("\n")]
    counted = Counter()
    for line in lines:
        for number, answer in enumerate(line["answers"]):
            answer["right"] = line["way"] != "blind" and (line["film"] + number) % 3 != 0
            counted[answer["family"], answer["form"], line["way"], answer["right"]] += 1
    path.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    summary = run_families(pipe, settings, tmp_path)
    shares = {}
    for score in summary["scores"]:
        place = score["family"], score["form"], score["way"]
        shares[place] = score["score"]
        if score["way"] != "majority":
            right, wrong = (counted[(*place, right)] for right in (True, False))
            assert (score["right"], score["questions"]) == (right, right + wrong)
            assert score["score"] == right / (right + wrong)
    assert len(shares) == 2 * 2 * 4
    assert summary["mean"]["blind"] == 0
    assert summary["mean"]["8x"] == pytest.approx(
        np.mean([share for (*_, way), share in shares.items() if way == "8x"])
    )
    table = [[cell.strip() for cell in row.split("|")[1:-1]] for row in summary["table"].splitlines()]
    assert table[0][3:] == [
        "no compression, 4 visual tokens a frame",
        "8x, 0.5 VSTs a frame",
        "blind (no video)",
        "most frequent answer",
    ]
    assert [row[:2] for row in table[2:]] == [
        ["retrieval", "open"],
        ["retrieval", "multiple choice"],
        ["anomaly", "open"],
        ["anomaly", "multiple choice"],
        ["**mean**", ""],
    ]
    assert table[3][4].startswith(f"{100 * shares['retrieval', 'multiple choice', '8x']:.1f} [")
    assert (tmp_path / "table.md").read_text().strip() == summary["table"]
    assert np.asarray(Image.open(tmp_path / "families.png").convert("RGB")).std() > 10


def test_the_majority_is_counted_in_the_training_split():
    majority = Majority(("advertisement", "ordering"), films=40)
    answers, options = Counter(), Counter()
    for film in range(40):
        for question in draw_sample("train", film, 256, "advertisement", 3).questions:
            answers[question.answer] += 1
            options[question.options[question.correct]] += 1
    question = draw_sample("test", 0, 64, "advertisement").questions[0]
    assert answers[majority.reply(question, multiple_choice=False)] == max(answers.values())
    guess = LETTERS.index(majority.reply(question, multiple_choice=True)[-2])
    assert options[question.options[guess]] == max(options[option] for option in question.options)
    unseen = Question("ordering", "?", "x", ("never", "seen"), 1)
    assert majority.reply(unseen, multiple_choice=True) == "Best option: (A)"


def test_films_take_families_and_lengths_in_turn_from_the_test_split():
    settings = FamilySettings(frames=(20, 10), films=28)
    samples = [settings.sample(film) for film in range(28)]
    assert [sample.questions[0].family for sample in samples] == list(FAMILIES) * 4
    assert [sample.film.frames for sample in samples] == ([10] * 7 + [20] * 7) * 2
    assert len({sample.id for sample in samples}) == 28
    assert all(sample.id.startswith("test-") for sample in samples)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--families", "retrieval,guessing"], "guessing"),
        (["--frames", "9"], "frames=[9]: give 10 or more"),
        (["--films", "0"], "films=[0]"),
        (["--ratios", "4,64"], "a window of this model has 48 visual tokens"),
        (["--seed", "-3"], "seed=-3"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(arguments, said, checkpoint, tmp_path, capsys):
    command = ["eval", "families", "--model", str(checkpoint), "--output", str(tmp_path / "out")]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_the_command_prints_a_table_or_one_object(checkpoint, tmp_path, capsys):
    command = ["eval", "families", "--model", str(checkpoint), "--output", str(tmp_path)]
    command += ["--frames", "10", "--films", "1"]
    command += ["--ratios", "8", "--families", "anomaly"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["mean"]) == {"8x", "blind", "majority"}
    assert main(command) == 0
    words = capsys.readouterr().out
    assert printed["table"] in words
    assert all(file in words for file in printed["files"])
