"""Practice names: films told in words whose signs and colours are called something else.

Training shows 222 pairs of sign and colour, and the test other ones. Who learns from these pairs alone learns them by
heart, and mistakes a star on yellow, which it never met, for what it did. Under names that are drawn anew for every
film there is nothing to learn but to keep what was said, and to find it again.
"""

import re
from collections.abc import Sequence

import numpy as np

from videoxl.synthetic.needles import COLOURS, LETTERS, SYMBOLS

# Words that the small tokenizer has as one token each anyway.
# fmt: off
NAMES = (
    "anything", "anywhere", "appears", "assistant", "bars", "books", "breaks", "broken", "cars", "cent",
    "coffee", "everything", "far", "frame", "helpful", "inserted", "itself", "juice", "many", "often", "option",
    "order", "part", "pattern", "phones", "pizza", "product", "screen", "seen", "shoes", "something", "static",
    "stripes", "time", "times", "video", "watches", "wrong",
)
# fmt: on
# Digits keep their names: they are counts and shares of time as well. A black screen is a pattern, not a colour.
_WORDS = re.compile(rf"\b({'|'.join((*COLOURS, *SYMBOLS))})\b(?! screen)|(?<=letter )([{''.join(LETTERS)}])\b")
_OPTION = re.compile(r"^(\([A-D]\) )(.+)$", re.MULTILINE)


def renamed(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """What the texts say under practice names, the same ones in all of them."""
    called = dict(zip((*COLOURS, *SYMBOLS, *LETTERS), rng.permutation(NAMES).tolist()))

    def option(match: re.Match) -> str:
        # Letters stand alone there, and in orders one behind the other.
        parts = [called[part] if part in LETTERS else part for part in match[2].split(", ")]
        return match[1] + ", ".join(parts)

    return [_WORDS.sub(lambda match: called[match[0]], _OPTION.sub(option, text)) for text in texts]
