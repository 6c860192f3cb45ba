"""Questions about a film, by family of tasks, each with its true answer and with options to choose from."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .needles import CARDS, COLOURS, VALUES, Needle, colours_of
from .phrases import PHRASES
from .plans import Plan

OPTION_LETTERS = "ABCD"
ANSWER_PREFIX = "Best option: ("  # as in the authors' evaluation
THIRDS = ("first", "middle", "last")
BORDER = 0.03  # of the film: so near to the border of two thirds nobody is asked for the third
TOLERANCE = 10  # per cent of the film
# What absence answers stands among the options of retrieval as well: that it is offered must tell nothing.
NONE_SHOWN, NOT_SHOWN = "none was shown", "it was not shown"


@dataclass(frozen=True)
class Question:
    """
    One question about one film.

    Args:
        family: of tasks.
        text: the question.
        answer: the true answer, in words.
        options: what multiple choice offers, in order.
        correct: the true one's index.
        per_cent: the true answer where it is a time, which may be missed by 10; else None.
    """

    family: str
    text: str
    answer: str
    options: tuple[str, ...]
    correct: int
    per_cent: int | None = None

    def prompt(self, multiple_choice: bool) -> str:
        """The question as it is asked, with its options behind it or without."""
        if not multiple_choice:
            return self.text
        listed = [f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, self.options)]
        return "\n".join([self.text, *listed])

    def reply(self, multiple_choice: bool) -> str:
        """What the model should say: the answer in words, with options the right one's letter behind it."""
        return f"{self.answer} ({OPTION_LETTERS[self.correct]})" if multiple_choice else self.answer

    def letter_reply(self) -> str:
        """The shortest reply to multiple choice, [`ANSWER_PREFIX`] included."""
        return f"{ANSWER_PREFIX}{OPTION_LETTERS[self.correct]})"

    def is_right(self, reply: str, multiple_choice: bool) -> bool:
        """
        Whether `reply` answers the question: with options it must name the right one, see `named_option`; else say
        the answer's words, case and punctuation aside, or a number of per cent that is at most 10 off: the first that
        is called so, or the last one.
        """
        if multiple_choice:
            return self.named_option(reply) == self.correct
        if self.per_cent is not None:
            said = re.findall(r"\d+(?=\s*(?:per cent|%))", reply) or re.findall(r"\d+", reply)[-1:]
            return bool(said) and abs(int(said[0]) - self.per_cent) <= TOLERANCE
        return _words(reply) == _words(self.answer)

    def named_option(self, reply: str) -> int | None:
        """
        The index of the option that a reply chooses: by a letter at its beginning, behind [`ANSWER_PREFIX`] or not;
        else by a letter in brackets; else by the words of an option. None where it names none, or several.
        """
        letters = OPTION_LETTERS[: len(self.options)]
        first = re.match(rf"\s*\(?([{letters}])[^\S\n]*(?:[).:\n]|$)", reply.removeprefix(ANSWER_PREFIX))
        if first:
            return letters.index(first[1])
        said = f" {' '.join(_words(reply))} "
        chosen = {letters.index(letter) for letter in re.findall(rf"\(([{letters}])\)", reply)} or {
            place for place, option in enumerate(self.options) if f" {' '.join(_words(option))} " in said
        }
        return chosen.pop() if len(chosen) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


# A maker gives every question of its family that the film can be asked, one for each occasion.
Maker = Callable[[np.random.Generator, Plan], list[Question]]


def _ask(
    rng: np.random.Generator,
    family: str,
    phrase: str,
    answer: str,
    option: str,
    others: Sequence[str],
    per_cent: int | None = None,
    **names: str,
) -> Question:
    """A question in one of its phrasings; `option` is the true one, `others` those beside it."""
    text = str(rng.choice(PHRASES[phrase])).format(**names)
    shown = [option, *others]
    order = rng.permutation(len(shown))
    options = tuple(shown[place] for place in order)
    return Question(family, text, answer, options, options.index(option), per_cent)


def _some(rng: np.random.Generator, values: Sequence[str], count: int, without: Sequence[str] = ()) -> list[str]:
    left = [value for value in values if value not in without]
    return [str(value) for value in rng.choice(left, min(count, len(left)), replace=False)]


def _never(plan: Plan, kind: str, value: str) -> tuple[str, ...]:
    """
    Colours that are not offered beside `value`: in training those that it is never shown in. Else who trains learns
    that they are always wrong, which the other splits' films are not.
    """
    known = colours_of("train", kind, value) if plan.split == "train" else tuple(COLOURS)
    return tuple(colour for colour in COLOURS if colour not in known)


def _name(kind: str, value: str) -> str:
    """As [`Needle.name`], of what need not be shown."""
    return f"the {kind} {value}" if kind in ("number", "letter") else f"the {value}"


def _start(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _unique(plan: Plan) -> list[tuple[int, Needle]]:
    """The cards whose value is shown once."""
    return [(place, needle) for place, needle in plan.cards if len(plan.times(needle.kind, needle.value)) == 1]


def _retrieval(rng: np.random.Generator, plan: Plan) -> list[Question]:
    made = []
    for kind in CARDS:
        shown = plan.of_kind(kind)
        if len(shown) == 1:
            value = shown[0][1].value
            others = _some(rng, VALUES[kind], 3, [value])
            others[-1] = str(rng.choice([others[-1], NONE_SHOWN]))
            made.append(_ask(rng, "retrieval", "which", _start(_name(kind, value)), value, others, kind=kind))
    for _, needle in _unique(plan):
        others = _some(rng, tuple(COLOURS), 3, [needle.colour, *_never(plan, needle.kind, needle.value)])
        others[-1] = str(rng.choice([others[-1], NOT_SHOWN]))
        answer = _start(f"{needle.name} was on {needle.colour}")
        made.append(_ask(rng, "retrieval", "colour", answer, needle.colour, others, name=needle.name))
    for colour in COLOURS:
        shown = [needle for _, needle in plan.cards if needle.colour == colour]
        if len(shown) == 1:
            kind = str(rng.choice(CARDS))
            never = [value for value in VALUES[kind] if colour in _never(plan, kind, value)]
            others = _some(rng, VALUES[kind], 3, [shown[0].value, *never])
            answer = f"On {colour}: {shown[0].name}."
            made.append(_ask(rng, "retrieval", "card", answer, shown[0].value, others, colour=colour))
    return made


def _ordering(rng: np.random.Generator, plan: Plan) -> list[Question]:
    cards = _unique(plan)
    made = []
    for count in (2, 3, 4):
        if len(cards) >= count:
            chosen = [cards[place] for place in rng.permutation(len(cards))[:count]]
            names = [needle.name for _, needle in chosen]
            in_order = [needle for _, needle in sorted(chosen, key=lambda card: card[0])]
            listed = f"{', '.join(names[:-1])} or {names[-1]}"
            which = str(rng.choice(["first", "last"]))
            asked = in_order[0 if which == "first" else -1]
            rest = [needle.value for _, needle in chosen if needle is not asked]
            answer = f"The {which}: {asked.value}."
            made.append(_ask(rng, "ordering", which, answer, asked.value, rest, names=listed))
            if count == 3:
                made.append(_put_in_order(rng, names, in_order))
    return made


def _put_in_order(rng: np.random.Generator, names: list[str], in_order: list[Needle]) -> Question:
    orders = [", ".join(in_order[place].value for place in rng.permutation(3)) for _ in range(24)]
    right = ", ".join(needle.value for needle in in_order)
    others = list(dict.fromkeys(order for order in orders if order != right))[:3]
    first, middle, last = (needle.value for needle in in_order)
    answer = f"The first: {first}, middle: {middle}, last: {last}."
    return _ask(rng, "ordering", "order", answer, right, others, names=", ".join(names))


def _counting(rng: np.random.Generator, plan: Plan) -> list[Question]:
    made = []
    for kind, value in dict.fromkeys((needle.kind, needle.value) for _, needle in plan.cards):
        count = len(plan.times(kind, value))
        others = _some(rng, [str(n) for n in range(1, 7)], 3, [str(count)])
        name = _name(kind, value)
        answer = _start(f"{name}: {count}")
        made.append((count, _ask(rng, "counting", "often", answer, str(count), others, name=name)))
    for kind in CARDS:
        count = len(plan.of_kind(kind))
        if 1 <= count <= 6:
            others = _some(rng, [str(n) for n in range(1, 7)], 3, [str(count)])
            answer = f"There were {kind}s: {count}."
            made.append((count, _ask(rng, "counting", "many", answer, str(count), others, kinds=f"{kind}s")))
    # Most values are shown once: of those questions one is enough beside the others.
    once = [question for count, question in made if count == 1]
    return [question for count, question in made if count > 1] + once[:1]


def _time(rng: np.random.Generator, plan: Plan) -> list[Question]:
    made = []
    for place, needle in _unique(plan):
        third = third_of(place, plan.frames)
        if third is not None:
            # Without a full stop, so that behind two words as behind one the letter is due two tokens later.
            answer = _start(f"{needle.name} in the {third} third").removesuffix(".")
            rest = [_third(other) for other in THIRDS if other != third]
            made.append(_ask(rng, "time", "part", answer, _third(third), rest, name=needle.name))
        if plan.frames >= 10:
            share = round(100 * place / (plan.frames - 1))
            near = min(place * 10 // (plan.frames - 1), 9) * 10 + 5
            # Options lie at least 20 apart, and the true one is the nearest: a guess by sight is no coin toss.
            apart = [value for value in range(5, 100, 10) if abs(value - near) >= 20]
            picked = sorted(rng.permutation(apart)[:8].tolist())
            others = [value for n, value in enumerate(picked) if n == 0 or value - picked[n - 1] >= 20]
            others = [f"{value:02} per cent" for value in rng.permutation(others)[:3]]
            option = f"{near:02} per cent"
            # So short that from where the option's letter is due a small model's heads reach the first digit.
            answer = _start(f"{needle.name} was at {near:02}").removesuffix(".")
            made.append(_ask(rng, "time", "when", answer, option, others, per_cent=share, name=needle.name))
    return made


def _third(name: str) -> str:
    return f"{name} third"


def third_of(place: int, frames: int) -> str | None:
    """In which third of the film a frame lies; None next to a border."""
    share = (place + 0.5) / frames
    if min(abs(share - 1 / 3), abs(share - 2 / 3)) < BORDER:
        return None
    return THIRDS[int(share * 3)]


def _advertisement(rng: np.random.Generator, plan: Plan) -> list[Question]:
    shown = plan.of_kind("advertisement")
    none = "none"
    if not shown:
        others = _some(rng, VALUES["advertisement"], 3)
        return [_ask(rng, "advertisement", "advertisement", "No, there is none.", none, others)]
    product = shown[0][1].value
    others = [*_some(rng, VALUES["advertisement"], 2, [product]), none]
    return [_ask(rng, "advertisement", "advertisement", f"Yes, for {product}.", product, others)]


def _anomaly(rng: np.random.Generator, plan: Plan) -> list[Question]:
    shown = plan.of_kind("anomaly")
    nothing = "nothing does"
    if not shown:
        others = [_an(value) for value in _some(rng, VALUES["anomaly"], 3)]
        return [_ask(rng, "anomaly", "anomaly", "Nothing does.", nothing, others)]
    place, needle = shown[0]
    others = [_an(value) for value in _some(rng, VALUES["anomaly"], 2, [needle.value])]
    made = [_ask(rng, "anomaly", "anomaly", _start(_an(needle.value)), _an(needle.value), [*others, nothing])]
    third = third_of(place, plan.frames)
    if third is not None:
        answer = f"In the {third} third."
        rest = [_third(other) for other in THIRDS if other != third]
        made.append(_ask(rng, "anomaly", "anomaly_when", answer, _third(third), [*rest, "never"]))
    return made


def _an(value: str) -> str:
    return f"a {value}" if value.endswith("screen") else value


def _absence(rng: np.random.Generator, plan: Plan) -> list[Question]:
    made = []
    options = {True: "yes, it was", False: "no, it was not shown"}
    shown = {(needle.kind, needle.value) for _, needle in plan.cards}
    kind = str(rng.choice(CARDS))
    missing = (kind, _some(rng, VALUES[kind], 1, [value for other, value in shown if other == kind])[0])
    asked = [missing]
    if shown:
        asked.append(sorted(shown)[int(rng.integers(len(shown)))])
    for kind, value in asked:
        there = (kind, value) in shown
        answer = _start(options[there])
        made.append(_ask(rng, "absence", "was", answer, options[there], [options[not there]], name=_name(kind, value)))
    for kind in CARDS:
        if not plan.of_kind(kind):
            others = _some(rng, VALUES[kind], 3)
            made.append(_ask(rng, "absence", "which", f"No {kind} was shown.", NONE_SHOWN, others, kind=kind))
    others = _some(rng, tuple(COLOURS), 3, _never(plan, *missing))
    made.append(_ask(rng, "absence", "colour", "It was not shown.", "it was not shown", others, name=_name(*missing)))
    return made


def describe(rng: np.random.Generator, plan: Plan) -> Question:
    """
    What all needles are, in order: no task of its own, but in training it teaches most with least, as captions do.
    """
    listed = [_described(needle) for _, needle in plan.needles]
    answer = _start(", ".join(listed) or "nothing but the film itself")
    return Question("description", str(rng.choice(PHRASES["description"])), answer, (answer,), 0)


def _described(needle: Needle) -> str:
    if needle.kind == "advertisement":
        return f"an advertisement for {needle.value}"
    return _an(needle.value) if needle.kind == "anomaly" else f"{needle.name} on {needle.colour}"


MAKERS: dict[str, Maker] = {
    "retrieval": _retrieval,
    "ordering": _ordering,
    "counting": _counting,
    "time": _time,
    "advertisement": _advertisement,
    "anomaly": _anomaly,
    "absence": _absence,
}
