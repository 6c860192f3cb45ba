"""What the widened small checkpoint holds where: names of the new dimensions of its rows, and of its new heads'.

Rows are VSTs' or text's, and some dimensions mean one thing in VSTs and another in text. Nothing that was trained
before writes here; what is written is small beside the rest, so that norms stay as they were.
"""

import torch
from torch import nn

from videoxl.synthetic.needles import CARDS, VALUES

OWN = 128  # dimensions that the model had
NEW = 120
CODE_SIZE = 13

SIGNS = tuple((kind, value) for kind in CARDS for value in VALUES[kind])
# Words that tell what a question is about, by kind of question.
INTENTS = (
    (" first",),
    (" last",),
    (" order", "Sort"),
    (" often", " times"),
    tuple(f" {kind}s" for kind in CARDS),
    (" third", " part"),
    (" cent",),
)
NO_INTENTS = (" frame", " pattern")  # of questions for what breaks a film's pattern, which have some of the same words
ROLES = (" first", " last", " middle")  # behind which an answer names a card
LETTERS = "ABCD"  # of options; the last one's code is the middle of the others'
SHARES = (*(tenth / 10 for tenth in range(1, 10)), 1 / 3, 2 / 3)  # of the film, where what is said changes
COUNTS = 5  # limits between one and six cards
RATIOS = (2, 4, 8, 12, 16)


def _from(start: int, count: int) -> range:
    return range(OWN + start, OWN + start + count)


def _at(*numbers: int) -> tuple[int, ...]:
    return tuple(OWN + number for number in numbers)


# Of a text's sign, or of the sign that a VST's frame shows: its code, its kind, and that there is one. Of the words
# " numbers", " letters" and " symbols" the kind alone; roles have codes, too, and no `SIGN`.
CODE, KIND = _from(0, CODE_SIZE), _from(13, 3)
(SIGN,) = _at(16)
# In text, the same of the one or two tokens before; nothing where the token is a sign itself.
LATE_CODE, LATE_KIND = _from(17, CODE_SIZE), _from(30, 3)
(LATE_SIGN,) = _at(33)
# Where the middle one of three is due, or an order's letter: codes of the first and the last together; the first's in
# `LATE_CODE`, too. In options of orders, signs but the first have that of the sign before.
ENDS = _from(34, CODE_SIZE)
ONE, SINK = _at(47, 48)  # in all tokens, but visual ones; in "system"
CLOCK, CARD, RANK = _at(50, 51, 52)  # log of VSTs so far; a card, exactly; its number
USER = CARD  # in "user": what is named before it belongs to another question
# In text, of the card that is named here or has just been: its clock and its `ONE`, both as its VSTs' norm leaves
# them; whether there is any; what share of sight its VSTs have.
FOUND_CLOCK, FOUND_ONE, FOUND, COUNT = _at(54, 55, 57, 58)
ROLE, LATE_ROLE = _from(59, 3), _from(62, 3)
SHARE_STEPS, COUNT_STEPS = _from(65, len(SHARES)), _from(77, COUNTS)
(IS_VST,) = _at(82)
LENGTH_PRODUCT, CLOCK_PRODUCT, ONE_PRODUCT = _at(83, 84, 85)  # of `CLOCK` or `FOUND_CLOCK` and the other's `ONE`
LATENESS, EARLINESS = _at(86, 87)  # twice as much with each VST of a card, or half
COLON = OWN + 88
INTENT_WORD, INTENT = _from(89, len(INTENTS)), _from(96, len(INTENTS))
OPTION, OPTIONS = _at(103, 104)  # in "("; in text behind it
LATE_THE = OPTION  # from the second layer: that the token before is "The"
VISUAL, RATIO, RATIO_ONE = _at(105, 106, 107)  # share of sight of visual tokens; of the first VST, in text
AT_LEAST = _at(56, 108, 109, 110, 111)  # in text: that the ratio is 2; that it is at least 4, 8, 12, 16

# Of tokens of answers behind which something is due: flags. They lie where rows of text have nothing else, but for the
# first three in `ENDS`. Options' letters share one.
DUE = ("\n", " (", "The", "There", " at", " the", " were", " was", " in", "5", ",", ".", "It", tuple(LETTERS))
FLAG = dict(zip(DUE, _at(49, 52, 53, *range(34, 43), 44, 45)))
(NOTHING_ASKED,) = _at(43)
NAMED, NAMED_FOUND = _at(54, 55)  # where an answer begins: the question names a sign; the film shows it
# In text: the kind that is asked for, or of the sign that is named here or due; the nearest role that was named; the
# nearest of three words that begin a part.
ASKED_KIND, NEAR_ROLE = _from(112, 3), _from(115, 3)
PARTS = ("The", ":", " at")
NEAR = dict(zip(PARTS, _at(118, 119, 46)))
# Of an option's letter, also where what it stands for begins, and where the letter is due.
LETTER = NEAR_ROLE

# Of a head's 32 dimensions, which are 16 pairs that turn with the place: the first five turn fast, these hardly do.
WIDTH = 32
SINK_SLOT, BAR_SLOT, OTHER_SLOT, SECOND_SLOT, WORD_SLOT = 15, 31, 14, 30, 29
CODE_SLOTS = tuple(slot for slot in (*range(6, 16), *range(22, 32)) if slot not in (15, 31, 14, 30))
OPTION_SLOT, NAME_SLOT = 27, 28  # where `CODE_SLOTS` hold a code alone
SHOWN_SLOT = 5  # which turns by some ten-thousandths from place to place; the sink's slot turns with `BAR_SLOT`
TURNING = 5
HEADS, KEY_HEADS = 9, 3  # of queries and of keys, all together
NEW_HEADS, NEW_KEYS = (6, 7, 8), 2


def codes() -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of unit length, nearly at right angles: of signs [signs, `CODE_SIZE`], and of roles [roles, ...]."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(len(SIGNS) + len(ROLES), CODE_SIZE, generator=generator)
    codes = nn.functional.normalize(codes, dim=1)
    for _ in range(3000):
        alike = codes @ codes.T - torch.eye(len(codes))
        near = alike.abs()
        pushed = (near**5 * alike.sign()) @ codes / (near**5).sum(1, keepdim=True).clamp(min=1e-9)
        codes = nn.functional.normalize(codes - 0.3 * near.amax(1, keepdim=True) * pushed, dim=1)
    return codes[: len(SIGNS)], codes[len(SIGNS) :]
