"""What a film shows, and when: drawn from a seed, for one split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .needles import CARDS, VALUES, Needle, colours_of

MOST_CARDS = 7
MOST_REPEATS = 5


@dataclass(frozen=True)
class Plan:
    """
    The needles of a film.

    Args:
        split: "train", "validation" or "test".
        frames: of the film.
        needles: pairs of frame index and needle, in order.
    """

    split: str
    frames: int
    needles: tuple[tuple[int, Needle], ...]

    @property
    def cards(self) -> list[tuple[int, Needle]]:
        """Numbers, letters and symbols, with their frames."""
        return [(place, needle) for place, needle in self.needles if needle.kind in CARDS]

    def of_kind(self, kind: str) -> list[tuple[int, Needle]]:
        """The needles of one kind, with their frames."""
        return [(place, needle) for place, needle in self.needles if needle.kind == kind]

    def times(self, kind: str, value: str) -> list[int]:
        """The frames that show `value`."""
        return [place for place, needle in self.needles if (needle.kind, needle.value) == (kind, value)]


def make_needle(rng: np.random.Generator, split: str, kind: str, value: str | None = None) -> Needle:
    """A needle of a kind, of a value and colour that `split` may show together, with a look of its own."""
    value = str(rng.choice(VALUES[kind])) if value is None else value
    colour = str(rng.choice(colours_of(split, kind, value)))
    return Needle(kind, value, colour, int(rng.integers(2**40)))


def draw_plan(
    rng: np.random.Generator,
    split: str,
    frames: int,
    family: str | None = None,
    among: Sequence[str] | None = None,
    cards: int = MOST_CARDS,
) -> Plan:
    """
    The needles of one film of `frames` frames: up to `cards` cards, one of them perhaps several times, at most one
    advertisement and at most one anomaly; as many as leave half of the frames alone.

    Args:
        family: of tasks, which the film must serve: what is asked for is then more often there.
        among: the families that will be asked of; needles of the others' kinds are left out. By default all.
        cards: how many, those shown several times aside.
    """
    room = max(1, frames // 2)
    wanted: list[Needle] = []
    asked = ("advertisement", "anomaly", "counting") if among is None else among
    if "advertisement" in asked and rng.random() < (0.5 if family == "advertisement" else 0.25):
        wanted.append(make_needle(rng, split, "advertisement"))
    if "anomaly" in asked and rng.random() < (0.5 if family == "anomaly" else 0.2):
        wanted.append(make_needle(rng, split, "anomaly"))
    if "counting" in asked and rng.random() < (0.75 if family == "counting" else 0.25):
        wanted += _repeated(rng, split)
    least = {"ordering": 4, "retrieval": 2, "time": 2}.get(family, 0)
    for _ in range(int(rng.integers(min(least, cards), cards + 1))):
        wanted.append(make_needle(rng, split, str(rng.choice(CARDS))))
    if family is None or len(wanted) > room:
        rng.shuffle(wanted)
    wanted = wanted[:room]
    places = sorted(int(place) for place in rng.choice(frames, len(wanted), replace=False))
    rng.shuffle(wanted)
    return Plan(split, frames, tuple(zip(places, wanted)))


def _repeated(rng: np.random.Generator, split: str) -> list[Needle]:
    kind = str(rng.choice(CARDS))
    value = str(rng.choice(VALUES[kind]))
    return [make_needle(rng, split, kind, value) for _ in range(int(rng.integers(2, MOST_REPEATS + 1)))]
