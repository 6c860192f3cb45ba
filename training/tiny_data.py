"""What the small checkpoint learns from: single frames, films told in words, and films; all drawn when asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from videoxl.synthetic.backgrounds import Background
from videoxl.synthetic.films import FRAME_SIZE, Film
from videoxl.synthetic.needles import COLOURS, VALUES, overlay
from videoxl.synthetic.plans import MOST_CARDS, Plan, make_needle
from videoxl.synthetic.questions import OPTION_LETTERS, Question, describe
from videoxl.synthetic.tasks import FAMILIES, Sample, draw_sample, sample_rng

SIGNS = tuple((kind, value) for kind, values in VALUES.items() for value in values)
NO_SIGN, NO_COLOUR = len(SIGNS), len(COLOURS)  # the classes of a frame without a needle
FRAMES_PER_SCENE = 8
LATEST_FRAME = 600  # of the films that single frames are taken from


class SingleFrames(Dataset):
    """
    Frames with what they show: `pixels` uint8 [S, S, 3], `sign` (index into `SIGNS`, or `NO_SIGN`), `colour`.

    One in five shows no needle. The frame of an index depends on seed, split and index alone.
    """

    def __init__(self, count: int, seed: int, split: str = "train"):
        self.count, self.seed, self.split = count, seed, split
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
        if rng.random() < 0.8:
            sign = int(rng.integers(len(SIGNS)))
            needle = make_needle(rng, self.split, *SIGNS[sign])
            colour = list(COLOURS).index(needle.colour) if needle.colour else NO_COLOUR
            pixels = overlay(pixels, needle)
        return {"pixels": torch.from_numpy(pixels), "sign": sign, "colour": colour}


def told(film: Film) -> str:
    """The film in words: a dot for a frame, and what a needle's frame shows."""
    shown = dict(film.needles)
    words = []
    for index in range(film.frames):
        needle = shown.get(index)
        if needle is None:
            words.append(".")
            continue
        kind = {"symbol": "", "anomaly": "", "advertisement": " advertisement for"}.get(needle.kind, f" {needle.kind}")
        words.append(f"{kind} {needle.value}{' ' if needle.colour else ''}{needle.colour}")
    return "".join(words)


def turns(questions: Sequence[Question], rng: np.random.Generator, opening: str) -> list[dict]:
    """
    A conversation in the authors' format, `opening` before its first question.

    A question is asked openly, or as multiple choice, or as multiple choice and answered in words before the letter:
    what has just been said is easily found among options, and who can do that learns to do it with what was only seen.
    """
    conversation = []
    for number, question in enumerate(questions):
        way = int(rng.integers(3)) if len(question.options) > 1 else 0
        text, reply = question.prompt(way > 0), question.reply(way == 1)
        if way == 2:
            reply += f" ({OPTION_LETTERS[question.correct]})"
        conversation.append({"from": "human", "value": text if number else f"{opening}\n{text}"})
        conversation.append({"from": "gpt", "value": reply})
    return conversation


class TaskRows(Dataset):
    """
    Conversations about films of the training split, as rows of the annotation format.

    Films of one batch have the same number of frames and the same `ratio_key`, so that the model takes them together.

    Args:
        batches, batch_size: how many, and how large.
        frames: fewest and most frames of a film, of which each batch draws one number.
        questions: turns of a conversation, at most.
        seed: of the training run; no two seeds share films.
        as_text: tell the films in words, instead of showing them.
        processor: makes `pixel_values_videos` of the frames; not needed with `as_text`.
        split: of the synthetic world.
        families, cards: of the films' questions, and how many cards a film shows; see [`draw_sample`].
    """

    def __init__(
        self,
        batches: int,
        batch_size: int,
        frames: tuple[int, int],
        questions: int,
        seed: int,
        as_text: bool = False,
        processor=None,
        split: str = "train",
        families: Sequence[str] = FAMILIES,
        cards: int = MOST_CARDS,
    ):
        self.families, self.cards = families, cards
        self.batches, self.batch_size, self.frames, self.questions = batches, batch_size, frames, questions
        self.seed, self.as_text, self.processor, self.split = seed, as_text, processor, split

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
        opening = told(sample.film) if self.as_text else "<image>"
        questions = list(sample.questions)
        description = describe(rng, Plan(self.split, frames, sample.film.needles))
        # At the end it teaches to see; before the questions, to find their answers in what has been said.
        questions.insert(0 if rng.random() < 0.25 else len(questions), description)
        row = {"id": sample.id, "conversations": turns(questions, rng, opening), "ratio_key": batch}
        if not self.as_text:
            row["pixel_values_videos"] = self._pixels(sample)
        return row

    def frames_of(self, batch: int) -> int:
        """Frames of every film of a batch: as many short films as long ones, on a scale of doublings."""
        low, high = np.log2(self.frames)
        return round(2 ** sample_rng(self.split, self.seed, 4, batch).uniform(low, high))

    def _pixels(self, sample: Sample) -> torch.Tensor:
        """float32 [F, 3, S, S]."""
        return self.processor.video_processor(sample.film.array(), return_tensors="pt")["pixel_values_videos"][0]
