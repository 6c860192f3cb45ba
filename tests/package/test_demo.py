"""The demo's films show what it says they show; what it prints is what was answered. Holds for any weights."""

import re

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from videoxl import TASK
from videoxl.cli import main
from videoxl.demo import REAL_VIDEO, AskedFilm, ask_and_compare, make_drawn_film
from videoxl.processing import VideoXLVideoProcessor
from videoxl.strip import WIDTH, draw_strip
from videoxl.synthetic.films import Film, write_film
from videoxl.synthetic.needles import colours_of
from videoxl.synthetic.questions import Question


def test_demo_prints_truth_beside_every_answer(tiny, tmp_path, capsys):
    assert main(["demo", "--model", str(tiny), "--output", str(tmp_path), "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  Q: ") == printed.count("truth: ") == 8
    right = len(re.findall(r"truth: .* right$", printed, re.M))
    assert right + len(re.findall(r"truth: .* WRONG$", printed, re.M)) == 8
    assert f"{right} of 8 answers are right" in printed
    for words in ("frames         240", "visual tokens  3840", "kept           480", "ratio          8.0", "read "):
        assert words in printed
    assert REAL_VIDEO in printed and "drawn over one of its frames" in printed
    for name in ("film", "real"):
        assert (tmp_path / f"{name}.mp4").is_file()
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width == WIDTH


def test_drawn_film_is_new_with_every_seed_and_its_file_shows_it(tmp_path):
    one, other = (make_drawn_film(seed, tmp_path / f"{seed}.mp4") for seed in (1, 2))
    assert one.needles != other.needles
    assert {needle.kind for _, needle in one.needles} == {"letter", "symbol", "advertisement"}
    assert all(needle.colour in colours_of("test", needle.kind, needle.value) for _, needle in one.needles)
    as_it_is = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    read = VideoXLVideoProcessor(**as_it_is)(str(one.path), num_frames=240)["pixel_values_videos"][0]
    shown = read.permute(0, 2, 3, 1).numpy()  # [F, S, S, 3]
    plain = Film(1, 240, size=shown.shape[1])
    for index, _ in one.needles:
        drawn, empty = one.frames[index].astype(float), plain.frame(index).astype(float)
        assert np.abs(shown[index] - drawn).mean() < 0.25 * np.abs(shown[index] - empty).mean()


def test_questions_are_true_of_the_film(tmp_path):
    film = make_drawn_film(4, tmp_path / "film.mp4")
    letter, symbol, colour, advertisement, absence = film.questions
    shown = {needle.kind: needle for _, needle in film.needles}
    cards = [needle for _, needle in film.needles if needle.kind != "advertisement"]
    assert advertisement.answer == f"Yes, for {shown['advertisement'].value}."
    assert letter.answer == f"The letter {shown['letter'].value}."
    assert symbol.answer == f"The {shown['symbol'].value}."
    (asked,) = [needle for needle in cards if needle.name in colour.text]
    assert colour.answer.lower() == f"{asked.name} was on {asked.colour}.".lower()
    there = [needle for needle in cards if needle.name in absence.text]
    assert absence.answer == ("Yes, it was." if there else "No, it was not shown.")


def test_right_answers_are_counted(tiny, tmp_path, capsys):
    """Whatever the model says is the truth of one question, and not that of the other."""
    film = Film(1, 3)
    path, pipe = write_film(film, tmp_path / "film.mp4"), pipeline(TASK, model=str(tiny))
    said = pipe(video=str(path), question="What?", num_frames=3, max_new_tokens=24)["answer"]
    said = " ".join(said.split())
    questions = tuple(Question("retrieval", "What?", answer, (answer,), 0) for answer in (said, f"{said} unsaid"))
    assert ask_and_compare(pipe, AskedFilm(path, film.array(), (), questions)) == 1
    verdicts = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "truth: " in line]
    assert verdicts == ["right", "WRONG"]


def test_negative_seed_is_refused(tiny, tmp_path, capsys):
    assert main(["demo", "--model", str(tiny), "--output", str(tmp_path), "--seed", "-1"]) == 1
    assert "seed=-1" in capsys.readouterr().err


@pytest.mark.parametrize("places", [(0,), (99,), (0, 1, 2), (97, 98, 99), (0, 50, 51, 52, 99), tuple(range(7))])
def test_every_needle_is_whole_in_the_picture(places):
    """Frames of one plain colour each: every marked one's square is there in its full size."""
    marks = [(index, "mark") for index in places]
    frames = np.full((100, 8, 8, 3), 128, np.uint8)
    for number, index in enumerate(places):
        frames[index] = (7, 30 * number, 200)
    picture = np.asarray(draw_strip("title", frames.__getitem__, 100, marks))
    for number in range(len(places)):
        rows, columns = np.nonzero((picture[200:] == (7, 30 * number, 200)).all(-1))
        assert (np.ptp(rows), np.ptp(columns)) == (209, 209)
