"""Films with questions: the tasks of training, validation and test, each a function of its split and number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .films import Film
from .needles import CARDS, SPLITS, VALUES
from .plans import MOST_CARDS, Plan, draw_plan, make_needle
from .questions import MAKERS, Question, describe

FAMILIES = tuple(MAKERS)
SHORTEST_ASKED = 10  # frames, from which on every family finds enough in a film


@dataclass(frozen=True)
class Sample:
    """A film and questions about it; `id` names split, number and length."""

    id: str
    film: Film
    questions: tuple[Question, ...]


def sample_rng(split: str, number: int, *more: int) -> np.random.Generator:
    """The generator of one sample: no split's numbers meet another's."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: give one of {SPLITS}")
    if number < 0:
        raise ValueError(f"number={number}: give 0 or more")
    return np.random.default_rng([SPLITS.index(split), number, *more])


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise ValueError(f"frames={frames}: a film has at least 1")


def draw_sample(
    split: str,
    number: int,
    frames: int,
    family: str | None = None,
    questions: int = 1,
    among: Sequence[str] = FAMILIES,
    cards: int = MOST_CARDS,
) -> Sample:
    """
    Film `number` of a split, with questions.

    Args:
        split: "train", "validation" or "test"; they share neither seeds nor pairs of value and colour.
        number: the film's, 0 or more.
        frames: how many it has.
        family: one of [`FAMILIES`], which all questions are of; by default each question's is drawn.
        questions: how many are asked at most; a film may give occasion for fewer, but always for one.
        among: the families that are drawn from, where `family` names none.
        cards: of a film at most, those shown several times aside.

    Raises:
        ValueError: for an unknown split or family, or a film too short for the family.
    """
    _check_frames(frames)
    families = (family,) if family is not None else tuple(among)
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        raise ValueError(f"family={unknown[0] if unknown else families!r}: give one of {FAMILIES}")
    if family is not None and frames < SHORTEST_ASKED:
        raise ValueError(f"frames={frames}: a film of one family needs at least {SHORTEST_ASKED}")
    rng = sample_rng(split, number, frames)
    seed = int(rng.integers(2**40))
    while True:
        plan = draw_plan(rng, split, frames, family, None if family else among, cards)
        asked = _questions(rng, plan, families, questions)
        if asked:
            return Sample(f"{split}-{number}-{frames}", Film(seed, frames, plan.needles), asked)


def _questions(rng: np.random.Generator, plan: Plan, families: Sequence[str], count: int) -> tuple[Question, ...]:
    """Questions of families taken in turn, in an order that is drawn."""
    made = {name: make(rng, plan) for name, make in MAKERS.items() if name in families}
    for found in made.values():
        rng.shuffle(found)
    chosen: list[Question] = []
    while len(chosen) < count and any(made.values()):
        for name in rng.permutation([name for name, found in made.items() if found]):
            chosen.append(made[str(name)].pop())
    return tuple(chosen[:count])


def needle_sample(split: str, number: int, frames: int, depth: float) -> Sample:
    """
    One needle in a haystack, as in the paper's experiment: a film without any other needle, and one question.

    Args:
        frames: of the film, the needle's included.
        depth: where the needle stands, in per cent of the film: 0 is its first frame, 100 its last.

    Raises:
        ValueError: for a depth outside of 0 to 100.
    """
    if not 0 <= depth <= 100:
        raise ValueError(f"depth={depth}: give 0 to 100 per cent")
    _check_frames(frames)
    rng = sample_rng(split, number, frames, 1)
    seed = int(rng.integers(2**40))
    needle = make_needle(rng, split, str(rng.choice(CARDS)))
    place = round((frames - 1) * depth / 100)
    found = MAKERS["retrieval"](rng, Plan(split, frames, ((place, needle),)))
    film = Film(seed, frames, ((place, needle),))
    return Sample(f"{split}-{number}-{frames}-{depth:g}", film, (found[int(rng.integers(len(found)))],))


def sentences(split: str, count: int) -> Iterator[str]:
    """Questions and answers as plain texts, of which a tokenizer learns its words."""
    for number in range(count):
        sample = draw_sample(split, number, 40, questions=12)
        description = describe(sample_rng(split, number, 2), Plan(split, 40, sample.film.needles))
        for question in (*sample.questions, description):
            yield f"{question.prompt(True)}\n{question.letter_reply()}\n{question.prompt(False)}\n{question.answer}"


__all__ = ["FAMILIES", "VALUES", "Question", "Sample", "draw_sample", "needle_sample", "sentences"]
