"""The heads that find when a card was shown, in which order, and how often: set in closed form, layer by layer.

Attention that is told apart by scores far from each other is exact: what a head reads off a token that it looks at
alone does not depend on how long rows are. So, one sink in front of the film ("system") has a score of its own, and

- a head that looks at all n VSTs alike gives them n / (n + w) of its sight, with the sink at log w: with five weights
  the logarithm of n, in VSTs so far or of the whole film (layers 0 to 2);
- a VST that shows a card looks at itself, any other at the sink: a flag without noise (layer 1); the VSTs flagged so
  far are counted as above (layer 2);
- text looks for the VSTs that show the sign it names (layer 3): whatever the sizes, the score of those is 0, of all
  others far below; they hand on their clock, how early and late they are, and how many they are;
- what answers choose by that is in `tiny_choices.py` (layers 4 and 5).
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM

from . import tiny_space as at
from .tiny_space import (
    BAR_SLOT,
    CODE_SLOTS,
    NEW_HEADS,
    NEW_KEYS,
    OTHER_SLOT,
    SECOND_SLOT,
    SINK_SLOT,
    WIDTH,
    WORD_SLOT,
)

TEXT, VSTS = "", "beacon_"  # whose projections
SIZE = 0.1  # of what is written to tell that something is so
CLOCK_SIZE = 0.1  # of a clock, in logarithms
LOG_WEIGHTS = (0.08, 2.54, 4.66, 6.8, 9.27)  # of the sink, in VSTs, with the clocks' heads
RANK_WEIGHT, COUNT_WEIGHT, VISUAL_WEIGHT = math.log(8), math.log(5), math.log(6)
FAR = 60.0  # a score that leaves nothing of thousands of tokens
KEY = 5.0  # of keys in the pairs that turn
NOWHERE = 50.0  # the sink's score with heads that have nothing to look for
SHARPNESS = (1, 4, 3, 3, 3)  # of the turning pairs: from 3 tokens on no other place has more than 85 per cent


def clock_weights() -> tuple[list[float], float, float]:
    """
    The sum of the five shares that comes nearest to log n, from 2 to 8,192.

    Returns:
        `tuple`: five factors, what is to be added, and the greatest error.
    """
    n = torch.logspace(math.log10(2), math.log10(8192), 400, dtype=torch.float64)
    shares = torch.stack([*(n / (n + math.exp(weight)) for weight in LOG_WEIGHTS), torch.ones_like(n)], 1)
    fitted = torch.linalg.lstsq(shares, n.log()[:, None]).solution[:, 0]
    *factors, rest = fitted.tolist()
    return factors, rest, (shares @ fitted - n.log()).abs().max().item()


class Sizes(NamedTuple):
    """
    How large a module leaves what rows are marked with.

    Args:
        sign: `SIGN` in VSTs that show cards, in the middle.
        card: `ONE` there, on average.
        mark: `IS_VST` there.
        naming: `ONE` in text that names a sign.
        answer: the least of that behind "The" or "The letter".
        begin: the least of that in "The".
        letter: `ONE` in options' letters, on average.
        role: `ONE` in answers where a role is named, and a colon behind it.
        text: `ONE` in all text.
    """

    sign: float
    card: float
    mark: float
    naming: float
    answer: float
    begin: float
    letter: float
    role: float
    text: float


class NewHeads:
    """
    What widening added to a layer's attention, without weights: one head of keys and values, three of queries.

    Args:
        model: the widened one.
        number: of the layer.
        start: int64 [2], the first tokens of every chat, of which the second is the sink.
    """

    @torch.no_grad()
    def __init__(self, model: VideoXLForCausalLM, number: int, start: torch.Tensor):
        layer = model.model.language_model.layers[number]
        self.attention = layer.self_attn
        rows: list[torch.Tensor] = []
        hook = layer.input_layernorm.register_forward_hook(lambda module, given, output: rows.append(output[0]))
        model(start[None])
        hook.remove()
        self.sink = rows[0][1]  # [D], normalized
        for who in (TEXT, VSTS):
            for name, first in (("q", NEW_HEADS[0]), ("k", NEW_KEYS), ("v", NEW_KEYS)):
                projection = self._projection(who, name)
                projection.weight[WIDTH * first :] = 0
                projection.bias[WIDTH * first :] = 0
        self.attention.o_proj.weight[:, WIDTH * NEW_HEADS[0] :] = 0

    def _projection(self, who: str, name: str) -> torch.nn.Linear:
        return getattr(self.attention, f"{who}{name}_proj")

    def ask(self, who: str, head: int, slot: int, score: float = 0.0, by: Mapping[int, float] | None = None) -> None:
        """A head's queries: with a key of 1 in the slot they score this much, and by what rows hold."""
        self._set(self._projection(who, "q"), WIDTH * head + slot, score * WIDTH**0.5, by, WIDTH**0.5)

    @torch.no_grad()
    def ask_besides(self, head: int, slot: int, by: Mapping[int, float]) -> None:
        """Adds to what text asks for, by what else rows hold; see [`ask`]."""
        for dimension, weight in by.items():
            self._projection(TEXT, "q").weight[WIDTH * head + slot, dimension] += weight * WIDTH**0.5

    def key(self, who: str, slot: int, own: float = 0.0, by: Mapping[int, float] | None = None) -> None:
        """Keys: so much in the slot, and by what rows hold."""
        self._set(self._projection(who, "k"), WIDTH * NEW_KEYS + slot, own, by)

    def value(self, who: str, slot: int, own: float = 0.0, by: Mapping[int, float] | None = None) -> None:
        """Values, as keys; see [`write`]."""
        self._set(self._projection(who, "v"), WIDTH * NEW_KEYS + slot, own, by)

    @torch.no_grad()
    def sink_has(self, name: str, slot: int, wanted: float) -> None:
        """The sink's key ("k") or value ("v") is this, whatever those of text are; after them."""
        projection, row = self._projection(TEXT, name), WIDTH * NEW_KEYS + slot
        has = projection.weight[row] @ self.sink + projection.bias[row]
        projection.weight[row, at.SINK] += (wanted - has) / self.sink[at.SINK]

    @torch.no_grad()
    def write(self, head: int, slot: int, dimension: int, size: float = 1.0) -> None:
        """What a head saw in a slot of values is added to the row."""
        self.attention.o_proj.weight[dimension, WIDTH * head + slot] = size

    def look_back(
        self, who: str, head: int, distance: int, score: float, where: Mapping[int, float] | None = None
    ) -> None:
        """
        A head scores this much at a place before its own, and less elsewhere, where keys have `KEY`.

        Args:
            where: rows of text have these dimensions, this large; others ask for what they asked for. By default all.
        """
        for pair, weight in enumerate(SHARPNESS):
            turned = distance * at_speed(self.attention.config.rope_parameters["rope_theta"], pair)
            size = score * weight / sum(SHARPNESS) / KEY
            turns = {pair: size * math.cos(turned), pair + WIDTH // 2: -size * math.sin(turned)}
            for slot, wanted in turns.items():
                if where is None:
                    self.ask(who, head, slot, wanted)
                else:
                    self.ask_besides(head, slot, {flag: wanted / large for flag, large in where.items()})

    def look_for(
        self, head: int, flags: Mapping[int, float], one: float, near: bool = False, slot: int = WORD_SLOT
    ) -> None:
        """
        A head of text looks at tokens with a flag that stand near, within some hundred places, else at the sink.

        Args:
            flags: dimensions, as large as `ONE` where a token has them, and what each is preferred by.
            one: how large `ONE` is in text.
            near: at the nearest one alone, within seven places.
            slot: of the keys that tell flags.
        """
        away, score = 800.0, 120.0
        for pair in (1, 2, 3) if near else (3,):
            self.key(TEXT, pair, KEY)
            self.sink_has("k", pair, 0.0)  # it stands nowhere
            self.ask(TEXT, head, pair, score / KEY)
        self.ask(TEXT, head, slot, 1.0)
        self.ask(TEXT, head, SINK_SLOT, 2 * score if near else 0.75 * score)
        self.key(VSTS, slot, -away)
        flagged = {flag: (away + preferred) / one for flag, preferred in flags.items()}
        self.key(TEXT, slot, by={at.ONE: -away / one, **flagged})
        self.sink_has("k", slot, 0.0)

    def bar_text(self, score: float = FAR) -> None:
        """Text and visual tokens have a key that bars them; the sink has its own slot."""
        self.key(TEXT, BAR_SLOT, -score)
        self.sink_has("k", BAR_SLOT, 0.0)
        self.sink_has("k", SINK_SLOT, 1.0)

    def rest(self, who: str, heads: Iterable[int]) -> None:
        """Heads that look at the sink alone."""
        for head in heads:
            self.ask(who, head, SINK_SLOT, NOWHERE)
            self.ask(who, head, BAR_SLOT, 1.0)

    def clock(self, who: str, head: int, log_weight: float) -> None:
        """A head that looks at all VSTs alike, and at the sink."""
        self.ask(who, head, BAR_SLOT, 1.0)
        self.ask(who, head, SINK_SLOT, log_weight)

    @staticmethod
    @torch.no_grad()
    def _set(projection, row: int, own: float, by: Mapping[int, float] | None, scale: float = 1.0) -> None:
        projection.bias[row] = own
        for dimension, weight in (by or {}).items():
            projection.weight[row, dimension] = weight * scale


def at_speed(theta: float, pair: int) -> float:
    """By how much a rotary pair turns from one place to the next."""
    return theta ** (-pair / (WIDTH // 2))


def set_first_clocks(heads: NewHeads) -> None:
    """Layer 0: three clocks in text and in VSTs."""
    factors, *_ = clock_weights()
    heads.bar_text()
    for head, weight in zip(NEW_HEADS, LOG_WEIGHTS):
        for who in (TEXT, VSTS):
            heads.clock(who, head, weight)
    heads.value(VSTS, 0, 1.0)
    for head, factor in zip(NEW_HEADS, factors):
        heads.write(head, 0, at.CLOCK, CLOCK_SIZE * factor)


def set_flags(heads: NewHeads, one: Sizes) -> None:
    """
    Layer 1: VSTs that show a card are flagged, a clock, and what share of a VST's sight visual tokens have. In text
    what the one or two tokens before are, and whether there are options; where one begins, its letter.
    """
    factors, *_ = clock_weights()
    heads.bar_text(4000.0)
    for who in (TEXT, VSTS):
        for pair in range(at.TURNING):
            heads.key(who, pair, KEY)
    for pair in range(at.TURNING):
        heads.sink_has("k", pair, 0.0)  # it stands nowhere
    heads.key(VSTS, SECOND_SLOT, by={at.SIGN: 120 / one.sign, at.ONE: -60 / one.card})
    heads.look_back(VSTS, 6, 0, 1600.0)
    heads.ask(VSTS, 6, BAR_SLOT, 1.0)
    heads.ask(VSTS, 6, SINK_SLOT, 1600.0)
    heads.ask(VSTS, 6, SECOND_SLOT, 1.0)
    heads.clock(VSTS, 7, LOG_WEIGHTS[3])
    heads.ask(VSTS, 8, OTHER_SLOT, 1.0)
    heads.ask(VSTS, 8, SINK_SLOT, VISUAL_WEIGHT)
    heads.key(VSTS, OTHER_SLOT, -FAR)
    heads.key(TEXT, OTHER_SLOT, by={at.ONE: -FAR / one.naming})  # visual tokens have no `ONE`
    heads.sink_has("k", OTHER_SLOT, 0.0)
    heads.value(VSTS, 0, 1.0)
    heads.write(6, 0, at.CARD, SIZE)
    heads.write(7, 0, at.CLOCK, CLOCK_SIZE * factors[3])
    _set_tokens_before(heads, one)
    heads.value(TEXT, 24, 1.0)
    heads.sink_has("v", 24, 0.0)
    heads.write(8, 24, at.VISUAL, SIZE)


def _set_tokens_before(heads: NewHeads, one: Sizes) -> None:
    """What text is told in [`set_flags`]."""
    for head, back in ((6, 1), (7, 2)):
        heads.look_back(TEXT, head, back, 1600.0)  # what leaks from elsewhere is matched steeply
        heads.ask(TEXT, head, SINK_SLOT, by={at.SIGN: 3200 / one.naming})
    heads.look_for(8, {at.OPTION: 0.0}, one.naming)
    begins = dict.fromkeys((at.SIGN, *at.ROLE), one.naming)
    heads.ask_besides(8, WORD_SLOT, {flag: -1 / large for flag, large in begins.items()})
    heads.look_back(TEXT, 8, 2, 4000.0, begins)
    signs = dict(zip((*at.CODE, *at.KIND, at.SIGN), (*at.LATE_CODE, *at.LATE_KIND, at.LATE_SIGN)))
    for slot, (own, later) in enumerate(signs.items(), 1):
        heads.value(TEXT, slot, by={own: SIZE / one.answer})
        heads.write(6, slot, later)
        heads.write(7, slot, later)
    words = {**dict(zip(at.ROLE, at.LATE_ROLE)), at.FLAG["The"]: at.LATE_THE}
    for slot, (own, later) in zip((18, 19, 20, 29), words.items()):
        heads.value(TEXT, slot, by={own: SIZE / (one.role if own in at.ROLE else one.begin)})
        heads.write(6, slot, later)
        if own in at.ROLE:
            heads.write(7, slot, later)
    options = {at.OPTION: at.OPTIONS, **{letter: letter for letter in at.LETTER}}
    for slot, (own, told) in enumerate(options.items(), 25):
        heads.value(TEXT, slot, by={own: SIZE / (one.naming if own == at.OPTION else one.letter)})
        heads.write(8, slot, told)


def set_ranks(heads: NewHeads, one: float, text: float) -> None:
    """
    Layer 2: which card a VST shows, counted from the first, and the last of the clocks. In text two clocks, and what
    the question is about.

    Args:
        one: how large `ONE` is in VSTs that show cards.
        text: in text.
    """
    factors, *_ = clock_weights()
    heads.bar_text()
    heads.key(VSTS, SECOND_SLOT, by={at.CARD: 30 / one, at.ONE: -30 / one})
    for head, weight in zip((6, 7), LOG_WEIGHTS[3:]):
        heads.clock(TEXT, head, weight)
    heads.rest(VSTS, (6,))
    heads.clock(VSTS, 7, LOG_WEIGHTS[4])
    preferred = dict(zip(at.INTENT_WORD, (0.0, 0.0, 25.0, 0.0, 0.0, 25.0, 10.0)))
    heads.look_for(8, {**preferred, at.NOTHING_ASKED: 50.0}, text)
    heads.clock(VSTS, 8, RANK_WEIGHT)
    heads.ask(VSTS, 8, SECOND_SLOT, 1.0)
    heads.value(VSTS, 0, 1.0)
    for slot, (word, intent) in enumerate(zip(at.INTENT_WORD, at.INTENT), 1):
        heads.value(TEXT, slot, by={word: 1 / text})
        heads.write(8, slot, intent, 3 * SIZE)
    for slot, (kind, asked) in enumerate(zip(at.KIND, at.ASKED_KIND), 20):
        heads.value(TEXT, slot, by={kind: 1 / text})
        heads.write(8, slot, asked, 3 * SIZE)
    heads.write(6, 0, at.CLOCK, CLOCK_SIZE * factors[3])
    heads.write(7, 0, at.CLOCK, CLOCK_SIZE * factors[4])
    heads.write(8, 0, at.RANK)


def set_finders(heads: NewHeads, sign: float, one: float, text: float) -> None:
    """
    Layer 3: what the VSTs know that show the sign that is named here, or has just been; how many they are; and what
    the film's first VST saw.

    Args:
        sign, one: how large `SIGN` and `ONE` are in VSTs that show cards.
        text: how large both are in text.
    """
    match, missing = 100.0, 250.0
    heads.bar_text(2 * FAR)
    heads.key(VSTS, BAR_SLOT, by={at.CARD: missing / one, at.ONE: -missing / one})
    for slot, dimension in zip(CODE_SLOTS, (*at.CODE, *at.KIND)):
        heads.key(VSTS, slot, by={dimension: 1 / sign})
    heads.key(VSTS, SECOND_SLOT, by={at.SIGN: -1 / sign})
    for head in (6, 7):
        for slot, own, late in zip(CODE_SLOTS, (*at.CODE, *at.KIND), (*at.LATE_CODE, *at.LATE_KIND)):
            heads.ask(TEXT, head, slot, by={own: match / text, late: match / text})
        heads.ask(TEXT, head, SECOND_SLOT, by={at.SIGN: match / text, at.LATE_SIGN: match / text})
        heads.ask(TEXT, head, BAR_SLOT, 1.0)
    roles = dict.fromkeys((*at.ROLE, *at.LATE_ROLE), 200 / text)  # their codes are a little like signs'
    heads.ask(TEXT, 6, SINK_SLOT, 15.0, {at.SIGN: -40 / text, at.LATE_SIGN: -40 / text, **roles})
    heads.ask(TEXT, 7, SINK_SLOT, COUNT_WEIGHT)
    # From one VST to two the sum of the clocks' shares grows by 0.68: 20 is the score between them.
    heads.ask(TEXT, 8, OTHER_SLOT, 1.0)
    heads.key(TEXT, OTHER_SLOT, -300.0)
    heads.key(VSTS, OTHER_SLOT, by={at.CLOCK: -294 / one * SIZE})
    heads.rest(VSTS, NEW_HEADS)
    told = (at.CLOCK, at.ONE, at.LATENESS, None, at.EARLINESS, at.VISUAL)
    for slot, dimension in enumerate(told):
        size = 1 / one if dimension == at.VISUAL else SIZE / one
        heads.value(VSTS, slot, SIZE if dimension is None else 0.0, {dimension: size} if dimension else None)
    found = (at.FOUND_CLOCK, at.FOUND_ONE, at.LATENESS, at.FOUND, at.EARLINESS)
    for slot, dimension in enumerate(found):
        heads.write(6, slot, dimension)
    heads.write(7, 3, at.COUNT)
    heads.write(8, 5, at.RATIO)
    heads.write(8, 1, at.RATIO_ONE)
