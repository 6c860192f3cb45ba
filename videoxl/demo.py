"""The demo: true questions about a film that is made on the spot, and about a real one with a needle drawn into it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoxl.synthetic.films import Film, write_film, write_frames
from videoxl.synthetic.needles import Needle, overlay
from videoxl.synthetic.plans import Plan, make_needle
from videoxl.synthetic.questions import MAKERS, Question

from .strip import draw_strip

REAL_VIDEO = "gradio/media_assets/videos/world.mp4"
SPLIT = "test"  # its pairs of sign and colour are in no film of the training
DRAWN_FRAMES, DRAWN_SIZE = 240, 128
DRAWN_KINDS = ("letter", "advertisement", "symbol")  # one in each third of the film
# What the small checkpoint is for: which letter, which symbol, in which colour; an advertisement; what is not there.
DRAWN_QUESTIONS = (("retrieval", 3), ("advertisement", 1), ("absence", 1))
REAL_FRAMES = 96


@dataclass(frozen=True)
class AskedFilm:
    """A film's file, its frames, what is shown in which of them, and questions with their true answers."""

    path: Path
    frames: np.ndarray  # uint8 [F, S, S, 3]
    needles: tuple[tuple[int, Needle], ...]
    questions: tuple[Question, ...]


def find_real_video() -> Path:
    """
    A film that nobody here drew: 30 s, 480 x 270, among the installed gradio package's files.

    Raises:
        ValueError: if gradio is not installed, or ships no such film any more.
    """
    package = importlib.util.find_spec("gradio")  # found, not imported: that alone takes seconds
    places = package.submodule_search_locations if package is not None else []
    for place in places:
        film = Path(place).parent / REAL_VIDEO
        if film.is_file():
            return film
    raise ValueError(
        f"the demo looks at {REAL_VIDEO}, which comes with gradio: install videoxl[demo], or ask about a video of "
        "yours with `videoxl ask FILE QUESTION`."
    )


def make_drawn_film(seed: int, path: Path) -> AskedFilm:
    """Draws four minutes at a frame a second: a card with a letter, an advertisement and a symbol, in drawn order."""
    rng = np.random.default_rng([seed, DRAWN_FRAMES])
    third = DRAWN_FRAMES // len(DRAWN_KINDS)
    places = [number * third + int(rng.uniform(0.15, 0.85) * third) for number in range(len(DRAWN_KINDS))]
    needles = [make_needle(rng, SPLIT, str(kind)) for kind in rng.permutation(DRAWN_KINDS)]
    plan = Plan(SPLIT, DRAWN_FRAMES, tuple(zip(places, needles)))
    film = Film(seed, DRAWN_FRAMES, plan.needles, DRAWN_SIZE)
    write_film(film, path)
    questions = tuple(question for family, count in DRAWN_QUESTIONS for question in MAKERS[family](rng, plan)[:count])
    return AskedFilm(path, film.array(), plan.needles, questions)


def make_real_film(seed: int, path: Path, processor) -> AskedFilm:
    """
    The middle square of a real film's frames, with a card drawn into one of them, written as a film again.

    Args:
        processor: reads the film, with its video processor.
    """
    as_it_is = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    read = processor.video_processor(str(find_real_video()), num_frames=REAL_FRAMES, **as_it_is)
    pixels = read["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy().astype(np.uint8)  # [F, H, W, 3]
    side = min(pixels.shape[1:3])
    row, column = ((extent - side) // 2 for extent in pixels.shape[1:3])
    frames = pixels[:, row : row + side, column : column + side].copy()  # [F, S, S, 3]
    rng = np.random.default_rng([seed, REAL_FRAMES])
    place, needle = int(rng.integers(REAL_FRAMES)), make_needle(rng, SPLIT, "letter")
    frames[place] = overlay(frames[place], needle)
    write_frames(frames, path, needles=[place])
    plan = Plan(SPLIT, REAL_FRAMES, ((place, needle),))
    questions = (*MAKERS["retrieval"](rng, plan)[:2], MAKERS["absence"](rng, plan)[0])
    return AskedFilm(path, frames, plan.needles, questions)


def print_memory(answers: Sequence[dict], tokens_per_frame: int) -> None:
    """Prints what was kept of one video, and the seconds per stage."""
    memory = answers[0]["memory"]
    seconds = {**answers[0]["seconds"], "answer": sum(answer["seconds"]["answer"] for answer in answers)}
    visual, kept = memory["visual_tokens_seen"], memory["kept"]
    print(f"{answers[0]['video']}")
    print(f"  frames         {visual // tokens_per_frame}")
    print(f"  visual tokens  {visual}")
    print(f"  kept           {kept['beacons'] + kept['visual']} of them, {memory['bytes'] / 1e6:.2f} MB with all text")
    print(f"  ratio          {memory['compression']:.1f}" if memory["compression"] else "  ratio          -")
    print("  seconds        " + ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items()))


def print_answers(answers: Sequence[dict], tokens_per_frame: int) -> None:
    """Prints what was asked and answered about one video, what was kept of it, and the seconds per stage."""
    print_memory(answers, tokens_per_frame)
    for answer in answers:
        print(f"  Q: {answer['question']}")
        print(f"  A: {answer['answer']}")
    print()


def ask_and_compare(pipe, film: AskedFilm) -> int:
    """Asks everything about a film, prints each answer with the truth beside it, and counts those that are right."""
    settings = {"num_frames": len(film.frames), "max_new_tokens": 24, "return_memory": True, "return_seconds": True}
    answers = pipe(video=str(film.path), question=[question.text for question in film.questions], **settings)
    print_memory(answers, pipe.processor.tokens_per_frame)
    verdicts = [question.is_right(record["answer"], False) for question, record in zip(film.questions, answers)]
    for question, record, right in zip(film.questions, answers, verdicts):
        print(f"  Q: {question.text}")
        said = " ".join(record["answer"].split())  # on one line
        print(f"  A: {said:<32} truth: {question.answer:<32} {'right' if right else 'WRONG'}")
    return sum(verdicts)


def run_demo(pipe, output: str | Path, seed: int) -> None:
    """
    Makes both films, asks about them, prints everything, and draws each film's picture.

    Args:
        pipe: the pipeline.
        output: folder for the films and their pictures; made where it is missing.
        seed: of what the films show.

    Raises:
        ValueError: for a negative seed, or where there is no real film.
    """
    if seed < 0:
        raise ValueError(f"seed={seed}: give 0 or more")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = sum(parameter.numel() for parameter in pipe.model.parameters())
    print(f"Model: {pipe.model.config.name_or_path}, {parameters / 1e6:.1f} M parameters.\n")
    films = {
        "A film made on the spot. Every sign is in one frame of it, in a colour that training never showed it in.": (
            make_drawn_film(seed, folder / "film.mp4")
        ),
        f"A real film ({REAL_VIDEO}), with one card drawn over one of its frames.": (
            make_real_film(seed, folder / "real.mp4", pipe.processor)
        ),
    }
    right = 0
    for title, film in films.items():
        print(title)
        right += ask_and_compare(pipe, film)
        picture = film.path.with_suffix(".png")
        _draw(film).save(picture)
        print(f"  The film as a picture: {picture}\n")
    print(f"{right} of {sum(len(film.questions) for film in films.values())} answers are right.")
    print("Another film:  videoxl demo --seed 1     Your turn:  videoxl ask FILE QUESTION...")


def _draw(film: AskedFilm):
    marks = [(index, f"{needle.kind}: {needle.value}") for index, needle in film.needles]
    title = f"{film.path.name}: {len(film.frames)} frames, of which each sign is in one"
    return draw_strip(title, film.frames.__getitem__, len(film.frames), marks)
