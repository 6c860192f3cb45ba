"""What needles are hidden in, drawn films or any video file; and the needles, drawn or the user's own pictures."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videoxl.synthetic.films import Film
from videoxl.synthetic.needles import overlay
from videoxl.synthetic.questions import OPTION_LETTERS, Question
from videoxl.synthetic.tasks import needle_sample

NEEDLES_PER_FILM = 5  # as in the paper; more questions are asked about further films
NUMBERS_PER_SEED = 1_000_000  # test samples that one seed may use
QUESTIONS_FILE = "needles.json"
FIELDS = ("image", "question", "options", "answer")


@dataclass(frozen=True)
class HiddenNeedle:
    """A needle: the question about it, and `show`, which turns a haystack's frame into the frame that shows it."""

    question: Question
    show: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """
    A haystack, and the needles that are hidden in it, each alone. The haystack is a [`Film`] or a [`LoopedFilm`]:
    `frames`, `frame(index)` and `chunks()`.
    """

    haystack: "Film | LoopedFilm"
    needles: tuple[HiddenNeedle, ...]


@dataclass(frozen=True)
class LoopedFilm:
    """
    A film of `frames` frames; one that has fewer is played again and again.

    Args:
        pictures: uint8 `[n, H, W, 3]`.
    """

    pictures: np.ndarray
    frames: int

    def frame(self, index: int) -> np.ndarray:
        """uint8 `[H, W, 3]`."""
        return self.pictures[index % len(self.pictures)]

    def chunks(self, size: int = 16) -> Iterator[np.ndarray]:
        """All frames in pieces of at most `size`, uint8 `[f, H, W, 3]`."""
        for start in range(0, self.frames, size):
            yield np.stack([self.frame(index) for index in range(start, min(start + size, self.frames))])


def read_haystack(path: str | Path, frames: int, processor) -> LoopedFilm:
    """
    A video file as haystack of `frames` frames, resized and cropped for the model.

    Args:
        processor: reads the file, with its video processor.

    Raises:
        ValueError: if the file cannot be read.
    """
    reading = {"num_frames": frames, "do_rescale": False, "do_normalize": False}
    pixels = processor.video_processor(str(path), **reading)["pixel_values_videos"][0]  # [n, 3, H, W], 0 to 255
    return LoopedFilm(pixels.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8), frames)


@dataclass(frozen=True)
class PictureNeedle:
    """A picture of the user's, with a question about it."""

    picture: np.ndarray  # uint8 [H, W, 3]
    question: str
    options: tuple[str, ...]
    answer: int

    def hidden(self, rng: np.random.Generator) -> HiddenNeedle:
        """The picture as a frame of its own, its options in an order that `rng` draws."""
        order = rng.permutation(len(self.options)).tolist()
        options = tuple(self.options[place] for place in order)
        question = Question("retrieval", self.question, self.options[self.answer], options, order.index(self.answer))
        return HiddenNeedle(question, lambda frame: self.picture)


def read_needles(folder: str | Path) -> list[PictureNeedle]:
    """
    The needles of a folder: pictures, and `needles.json`, a list of
    `{"image": "dog.png", "question": "…", "options": ["…", "…"], "answer": 0}`, `answer` the right option's index.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    path = Path(folder) / QUESTIONS_FILE
    if not path.is_file():
        raise ValueError(f"needles {folder}: there is no {QUESTIONS_FILE} in it, a list of objects with {FIELDS}.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}).") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: give a list of at least one object with {FIELDS}.")
    return [_needle(path, f"{path}, needle {number}", entry) for number, entry in enumerate(entries)]


def _needle(path: Path, where: str, entry) -> PictureNeedle:
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        raise ValueError(f"{where}: give an object with {FIELDS}, got {entry!r:.200}")
    image, question, options, answer = (entry[name] for name in FIELDS)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: 'question' must be a text, got {question!r:.200}")
    texts = isinstance(options, list) and all(isinstance(option, str) and option.strip() for option in options)
    if not texts or not 2 <= len(options) <= len(OPTION_LETTERS) or len(set(options)) < len(options):
        raise ValueError(
            f"{where}: 'options' must be 2 to {len(OPTION_LETTERS)} different texts, got {options!r:.200}"
        )
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise ValueError(
            f"{where}: 'answer' is the index of the right option, 0 to {len(options) - 1}, got {answer!r:.200}"
        )
    return PictureNeedle(_picture(path.parent, where, image), question, tuple(options), answer)


def _picture(folder: Path, where: str, name) -> np.ndarray:
    if not isinstance(name, str) or not (folder / name).is_file():
        raise ValueError(f"{where}: 'image' must name a picture in {folder}, got {name!r:.200}")
    try:
        with Image.open(folder / name, formats=("PNG", "JPEG")) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: {name} cannot be read as PNG or JPEG ({error}).") from error


class Trials:
    """
    The haystacks and needles of one experiment, for any length.

    Args:
        processor: reads a real film.
        seed: of haystacks, needles and the order of options.
        questions: asked in each cell.
        film: a video file as the one haystack; None for drawn films, a new one for every five needles.
        pictures: the user's own needles, taken in turn; None for drawn ones.
    """

    def __init__(self, processor, seed: int, questions: int, film: str | Path | None, pictures: list | None):
        self.processor, self.film, self.pictures = processor, film, pictures
        self._numbers = range(seed * NUMBERS_PER_SEED, seed * NUMBERS_PER_SEED + questions)
        self._size = questions if film is not None else NEEDLES_PER_FILM  # needles that share a film

    @property
    def films(self) -> int:
        """How many there are of each length."""
        return -(-len(self._numbers) // self._size)

    def trial(self, frames: int, film: int) -> Trial:
        """Film number `film` of `frames` frames."""
        numbers = self._numbers[film * self._size : (film + 1) * self._size]
        # Nothing but the needle's place depends on the depth: neither the sample's background nor its question.
        samples = [needle_sample("test", number, frames, depth=0) for number in numbers]
        if self.pictures is None:
            needles = [_drawn(sample) for sample in samples]
        else:
            needles = [self._picture(number) for number in numbers]
        if self.film is None:
            return Trial(Film(samples[0].film.seed, frames), tuple(needles))
        return Trial(read_haystack(self.film, frames, self.processor), tuple(needles))

    def _picture(self, number: int) -> HiddenNeedle:
        turn = (number - self._numbers[0]) % len(self.pictures)
        return self.pictures[turn].hidden(np.random.default_rng(number))


def _drawn(sample) -> HiddenNeedle:
    ((_, needle),) = sample.film.needles
    return HiddenNeedle(sample.questions[0], lambda frame: overlay(frame, needle))


def content_digest(folder: str | Path) -> str:
    """Eight letters that stand for the files that a folder of needles names, and what is in them."""
    path = Path(folder) / QUESTIONS_FILE
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    for entry in json.loads(content):
        digest.update((path.parent / entry["image"]).read_bytes())
    return digest.hexdigest()[:8]
