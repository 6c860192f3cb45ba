"""What the small checkpoint learns from: single frames, films spelled in words, and films; drawn when asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from videoxl.synthetic.backgrounds import Background
from videoxl.synthetic.films import FRAME_SIZE, Film
from videoxl.synthetic.needles import CARDS, COLOURS, VALUES, Needle, overlay, overlay_practice_card
from videoxl.synthetic.plans import MOST_CARDS, Plan, make_needle
from videoxl.synthetic.questions import Question, describe
from videoxl.synthetic.tasks import FAMILIES, draw_sample, sample_rng

SIGNS = tuple((kind, value) for kind, values in VALUES.items() for value in values)
NO_SIGN, NO_COLOUR = len(SIGNS), len(COLOURS)  # the classes of a frame without a needle
PLAIN = " film"
WAYS = ("open", "words, then letter", "words, then letter", "words, then letter", "letter")
UNKNOWN = -100  # what a card shows that has no name: nothing to learn
FRAMES_PER_SCENE = 8
LATEST_FRAME = 600  # of the films that single frames are taken from


class SingleFrames(Dataset):
    """
    Frames with what they show: `pixels` uint8 [S, S, 3], `sign` (index into `SIGNS`, or `NO_SIGN`), `colour` (index
    into `COLOURS`, `NO_COLOUR`, or `UNKNOWN` for an advertisement, which has two).

    One in five shows no needle. The frame of an index depends on seed, split and index alone.

    Args:
        count: of frames.
        seed, split: of the frames.
        practice: share of cards that no film shows, see [`overlay_practice_card`]; what they show besides a named
            colour or a needle's sign is `UNKNOWN`.
    """

    def __init__(self, count: int, seed: int, split: str = "train", practice: float = 0.0):
        self.count, self.seed, self.split, self.practice = count, seed, split, practice
        self._scene: tuple[int, Background] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = sample_rng(self.split, self.seed, 2, index)
        scene = int(sample_rng(self.split, self.seed, 3, index // FRAMES_PER_SCENE).integers(2**40))
        if self._scene is None or self._scene[0] != scene:
            self._scene = (scene, Background(scene, FRAME_SIZE))
        first = scene % LATEST_FRAME  # frames of one scene lie near each other: a cut's drawing is made once
        pixels = self._scene[1].frame(first + int(rng.integers(FRAMES_PER_SCENE)))
        sign, colour = NO_SIGN, NO_COLOUR
        if rng.random() < self.practice:
            pixels, sign, colour = self._practised(rng, pixels)
        elif rng.random() < 0.8:
            sign = int(rng.integers(len(SIGNS)))
            needle = make_needle(rng, self.split, *SIGNS[sign])
            colour = UNKNOWN if needle.kind == "advertisement" else NO_COLOUR
            if needle.kind in CARDS:
                colour = list(COLOURS).index(needle.colour)
            pixels = overlay(pixels, needle)
        return {"pixels": torch.from_numpy(pixels), "sign": sign, "colour": colour}

    def _practised(self, rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, int, int]:
        look = int(rng.integers(2**40))
        way = rng.random()
        if way < 0.25:
            colour = int(rng.integers(len(COLOURS)))
            return overlay_practice_card(pixels, look, "", "", list(COLOURS)[colour]), UNKNOWN, colour
        sign = int(rng.choice([number for number, (kind, _) in enumerate(SIGNS) if kind in CARDS]))
        pixels = overlay_practice_card(pixels, look, *SIGNS[sign], "")
        if way > 0.6:  # without any colour
            pixels = pixels.mean(2, keepdims=True).round().astype(np.uint8).repeat(3, 2)
        return pixels, sign, UNKNOWN


def spelled(film: Film) -> list[str]:
    """The film in words: what every frame shows."""
    shown = dict(film.needles)
    return [words_of(shown.get(index)) for index in range(film.frames)]


def words_of(needle: Needle | None) -> str:
    """What a needle's frame shows, in words of questions and answers; of a frame without any, that it is film."""
    if needle is None:
        return PLAIN
    return sign_words(needle.kind, needle.value) + (f" {needle.colour}" if needle.kind in CARDS else "")


def sign_words(kind: str, value: str) -> str:
    """What stands on a card, or fills the frame, colours aside."""
    return f" {'pattern' if kind == 'anomaly' else kind} {value}"


def turns(
    questions: Sequence[Question], rng: np.random.Generator, opening: str, ways: Sequence[str] = WAYS
) -> list[dict]:
    """
    A conversation in the authors' format, `opening` before its first question.

    A question is asked openly, or as multiple choice: answered in words with the letter behind them, or by the letter
    alone. What has just been said is easily found among options, so that the words are most of what is to be learned;
    the letter alone takes a model of this size many times the questions, and stays the worse. `ways` are drawn from.
    """
    conversation = []
    for number, question in enumerate(questions):
        way = str(rng.choice(ways)) if len(question.options) > 1 else "open"
        text = question.prompt(way != "open")
        reply = question.letter_reply() if way == "letter" else question.reply(way != "open")
        conversation.append({"from": "human", "value": text if number else f"{opening}\n{text}"})
        conversation.append({"from": "gpt", "value": reply})
    return conversation


class TaskRows(Dataset):
    """
    Conversations about films of the training split, as rows of the annotation format; the film is told in words, as
    `spelled`.

    Films of one batch have the same number of frames and the same `ratio_key`, so that the model takes them together.

    Args:
        batches, batch_size: how many, and how large.
        frames: fewest and most frames of a film, of which each batch draws one number.
        questions: turns of a conversation, at most.
        seed: of the training run; no two seeds share films.
        split: of the synthetic world.
        families, cards: of the films' questions, and how many cards a film shows; see [`draw_sample`].
        captions: share of the conversations that describe the film as well.
        ways: of asking and answering, see [`turns`].
    """

    def __init__(
        self,
        batches: int,
        batch_size: int,
        frames: tuple[int, int],
        questions: int,
        seed: int,
        split: str = "train",
        families: Sequence[str] = FAMILIES,
        cards: int = MOST_CARDS,
        captions: float = 0.3,
        ways: Sequence[str] = WAYS,
    ):
        if unknown := set(ways) - set(WAYS):
            raise ValueError(f"ways={sorted(unknown)}: there are {sorted(set(WAYS))}")
        self.families, self.cards, self.captions, self.ways = families, cards, captions, ways
        self.batches, self.batch_size, self.frames, self.questions = batches, batch_size, frames, questions
        self.seed, self.split = seed, split

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch = index // self.batch_size
        frames = self.frames_of(batch)
        rng = sample_rng(self.split, self.seed, 5, index)
        number = int(rng.integers(2**60))
        sample = draw_sample(
            self.split, number, frames, questions=self.questions, among=self.families, cards=self.cards
        )
        questions = list(sample.questions)
        if rng.random() < self.captions:
            description = describe(rng, Plan(self.split, frames, sample.film.needles))
            # At the end it teaches to see; before the questions, to find their answers in what has been said.
            questions.insert(0 if rng.random() < 0.25 else len(questions), description)
        said = turns(questions, rng, "<image>", self.ways)
        return {"id": sample.id, "ratio_key": batch, "conversations": said, "spelled": spelled(sample.film)}

    def frames_of(self, batch: int) -> int:
        """Frames of every film of a batch: as many short films as long ones, on a scale of doublings."""
        low, high = np.log2(self.frames)
        return round(2 ** sample_rng(self.split, self.seed, 4, batch).uniform(low, high))
