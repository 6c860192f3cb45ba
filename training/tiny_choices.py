"""The heads by which answers choose what to say of what was found: set in closed form, the last two layers.

Where an answer is to name the first or the last, it looks for the sign that is earliest or latest of those named
before, and for the middle one at what is neither; a name that the question asks for it looks up there, and a letter
among the options. Most heads do one thing in rows of one kind and another in rows of another kind: else they look at
the sink, whose score is more than anything can ask for (see [`_only_where`]).
"""

from collections.abc import Iterable, Mapping

from . import tiny_space as at
from .tiny_heads import KEY, SIZE, TEXT, VSTS, NewHeads
from .tiny_space import (
    CODE_SIZE,
    CODE_SLOTS,
    NAME_SLOT,
    NEW_HEADS,
    OPTION_SLOT,
    OTHER_SLOT,
    SECOND_SLOT,
    SHOWN_SLOT,
    SINK_SLOT,
)

STEEP = 1e11  # how order is asked for; the least difference is of some 1e-10
# Keys of what is latest are larger by this: from place to place they turn a little into those of what is earliest, and
# these into them, and where a film shows few VSTs of cards, what is late has the smaller numbers.
LOUDER = 30.0
MATCH = 600.0  # what an option counts that begins as is asked for
# Where an order's letter is due, rows hold the first and the last together, and so much of the first besides; what is
# held together counts against an option by half: so the first counts for it by as much as the last against it.
FIRST_SIZE, TOGETHER = 1.0, -0.5
BEFORE = 2.0  # how much more it counts which sign an option has first than which it has second
ORDER, THIRD = at.INTENT[2], at.INTENT[5]


def _choose(heads: NewHeads, text: float) -> None:
    """Layers 4 and 5: keys of signs that the film shows, and their codes as values. Heads look at the sink alone."""
    barred = {at.ONE: -1e6 - 30, at.FOUND: 30.0, at.SIGN: 1e6}
    heads.key(TEXT, SHOWN_SLOT, by={dimension: score / text for dimension, score in barred.items()})
    heads.key(VSTS, SHOWN_SLOT, -1e6)
    heads.sink_has("k", SHOWN_SLOT, 0.0)
    heads.sink_has("k", SINK_SLOT, 1.0)
    for head in NEW_HEADS:
        heads.ask(VSTS, head, SINK_SLOT, 2000.0)
    for slot, order, size in ((SECOND_SLOT, at.LATENESS, LOUDER), (OTHER_SLOT, at.EARLINESS, 1.0)):
        # Tokens behind a sign's know the same of it, but are not as long; and the first of an option has a letter.
        barred = dict.fromkeys((at.LATE_SIGN, *at.LETTER), -10 * size / text)
        heads.key(TEXT, slot, by={order: size / text, **barred})
    for slot, (own, *roles) in enumerate(zip(at.CODE, *at.codes()[1].tolist())):
        taken_out = {role: -code / text for role, code in zip(at.ROLE, roles)}  # words of roles are no signs
        heads.value(TEXT, slot, by={own: 1 / text, **taken_out})


def _only_where(heads: NewHeads, head: int, wanted: Mapping[int, float], text: float, rest: float = 4.0) -> None:
    """A head looks at the sink but where flags have a sum of more than `rest`."""
    size = 4e12 / text  # more than order is asked for, which is steep
    heads.ask(TEXT, head, SINK_SLOT, 500.0, {at.ONE: rest * size, **{flag: -size * n for flag, n in wanted.items()}})


def _near(heads: NewHeads, head: int, near: Mapping[int, int], text: float) -> None:
    """The nearest of some flags is told where they are mapped to; but not where a letter is due."""
    heads.look_for(head, dict.fromkeys(near, 0.0), text, near=True)
    heads.ask_besides(head, SINK_SLOT, {at.FLAG[" ("]: 2000 / text})
    for slot, (flag, told) in enumerate(near.items(), CODE_SIZE):
        heads.value(TEXT, slot, by={flag: 1 / text})
        heads.write(head, slot, told, SIZE)


def set_order(heads: NewHeads, text: float) -> None:
    """
    Layer 4: behind "middle:", and where the letter of an order is due, the codes of the earliest and of the latest
    sign that were named. Everywhere the nearest beginning of an answer's part. Where an option of an order has its
    second sign, its letter, and the code of its first sign.

    Args:
        text: how large `ONE` is where text names a sign.
    """
    _choose(heads, text)
    middle, due = at.LATE_ROLE[2], at.FLAG[" ("]
    _near(heads, 6, {at.FLAG.get(word, at.COLON): near for word, near in at.NEAR.items()}, text)
    wanted = {at.COLON: 2.7, middle: 2.1, due: 3.5, ORDER: 1 / 3, THIRD: -2}
    _only_where(heads, 7, wanted, text)
    _only_where(heads, 8, {**wanted, at.SIGN: 3.4, **dict.fromkeys(at.LETTER, -6)}, text)
    for head, by in ((7, OTHER_SLOT), (8, SECOND_SLOT)):
        heads.ask(TEXT, head, SHOWN_SLOT, by=dict.fromkeys((middle, due), 1 / text))
        heads.ask(TEXT, head, by, by=dict.fromkeys((middle, due), STEEP / text))
        for slot in range(CODE_SIZE):
            heads.write(head, slot, at.ENDS[slot])
    for slot, late in enumerate(at.LATE_CODE):
        heads.write(7, slot, late, FIRST_SIZE)
    for pair in range(at.TURNING):
        heads.key(TEXT, pair, KEY)
        heads.sink_has("k", pair, 0.0)
    heads.look_back(TEXT, 8, 2, 4000.0, {at.SIGN: text})
    for slot, letter in enumerate(at.LETTER, 16):
        heads.value(TEXT, slot, by={letter: 1 / text})
        heads.write(8, slot, letter, 1.4 * SIZE)
    heads.value(TEXT, 19, by=dict.fromkeys(at.LETTER, 1 / text))
    heads.write(8, 19, at.OPTIONS, 1.4 * SIZE)


def set_choices(heads: NewHeads, text: float) -> None:
    """
    Layer 5: what answers are to say next, as codes and letters, see the functions below; and everywhere the nearest
    role that was named.

    Args:
        text: how large `ONE` is where text names a sign.
    """
    _choose(heads, text)
    _near(heads, 7, dict(zip(at.ROLE, at.NEAR_ROLE)), text)
    for slot, own, before in zip(CODE_SLOTS, at.CODE, at.ENDS):
        heads.key(TEXT, slot, by={own: 1 / text, before: BEFORE * SIZE / text})
    named = {at.ONE: -2000 / text, at.SIGN: 2000 / text, at.USER: 2000 / text}
    heads.key(TEXT, NAME_SLOT, by={**named, **dict.fromkeys(at.LETTER, -2000 / text)})
    heads.key(VSTS, NAME_SLOT, -2000.0)
    heads.sink_has("k", NAME_SLOT, 0.0)
    _set_names(heads, text)
    _set_letters(heads, text)


def _ask_for_name(heads: NewHeads, head: int, flags: Iterable[int], text: float) -> None:
    """Rows with a flag look for the nearest sign that their question names outside of options."""
    for flag in flags:
        heads.ask_besides(head, NAME_SLOT, {flag: 1 / text})
        heads.ask_besides(head, 3, {flag: 2000 / KEY / text})


def _set_names(heads: NewHeads, text: float) -> None:
    """
    Head 6: the code of the sign that is due. Behind "first:" and "last:" the earliest and latest that was named,
    behind "middle:" the one that is neither; behind "The" and "The letter" the one that the question names.
    """
    first, last, _ = at.LATE_ROLE
    begins = (at.FLAG["The"], at.LATE_THE)
    roles = dict.fromkeys(at.LATE_ROLE, 2.4)
    _only_where(heads, 6, {at.COLON: 3.4, **roles, **dict.fromkeys(begins, 6.5)}, text)
    heads.ask(TEXT, 6, SHOWN_SLOT, by=dict.fromkeys(at.LATE_ROLE, 1 / text))
    heads.ask(TEXT, 6, OTHER_SLOT, by={first: STEEP / text})
    heads.ask(TEXT, 6, SECOND_SLOT, by={last: STEEP / text})
    for slot, end in zip(CODE_SLOTS, at.ENDS):
        heads.ask(TEXT, 6, slot, by={end: -200 * SIZE / text})
    _ask_for_name(heads, 6, begins, text)
    for slot in range(CODE_SIZE):
        heads.write(6, slot, at.CODE[slot], 8.0)
    for slot, kind in enumerate(at.ASKED_KIND, 19):
        heads.value(TEXT, slot, by={kind: 1 / text})
        heads.write(6, slot, kind, SIZE)


def _set_letters(heads: NewHeads, text: float) -> None:
    """
    Head 8: where a letter is due, that of the option which begins as the answer ended; of an order, that whose first
    sign is rather the first than the last, and also, but by less, whose second is. Where an answer begins, whether the
    question names a sign, and whether the film shows it.
    """
    due, begins = at.FLAG[" ("], at.FLAG["\n"]
    _only_where(heads, 8, {due: 5, begins: 5}, text, rest=2.5)
    for slot, late, end in zip(CODE_SLOTS, at.LATE_CODE, at.ENDS):
        heads.ask(TEXT, 8, slot, by={late: MATCH / text, end: TOGETHER * MATCH / text})
    heads.ask(TEXT, 8, SHOWN_SLOT, by={ORDER: 1 / 3 / text})
    size = 1600 / text  # what stands third in an option, behind the same sign as another's second, has a longer row
    shown = {at.ONE: -2 * size, **dict.fromkeys((at.SIGN, *at.ROLE, *at.LETTER), size), at.OPTIONS: size / 2}
    heads.key(TEXT, OPTION_SLOT, by={**shown, at.LATE_SIGN: -10 * size})
    heads.key(VSTS, OPTION_SLOT, -3000.0)
    heads.sink_has("k", OPTION_SLOT, 0.0)
    heads.ask(TEXT, 8, OPTION_SLOT, by={due: 1 / text})
    _ask_for_name(heads, 8, (begins,), text)
    told = (*zip(at.LETTER, at.LETTER), (at.SIGN, at.NAMED), (at.FOUND, at.NAMED_FOUND))
    for slot, (own, to) in zip((16, 17, 18, 22, 23), told):
        heads.value(TEXT, slot, by={own: 1 / text})
        heads.write(8, slot, to, SIZE)
