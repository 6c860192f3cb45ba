"""Steps and products in feed-forward layers of the widened small checkpoint, set in closed form.

A gated unit, silu(a x) (b x), is near (a x) (b x) where a x is large: the difference of two is a product. And the
difference of two whose gates open one after the other is a step. Where a step lies is told as a multiple of something
else in the row, so that it does not depend on how long rows are; how high it is does.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn

from . import tiny_space as at
from .tiny_heads import CLOCK_SIZE, COUNT_WEIGHT, RANK_WEIGHT, SIZE, VISUAL_WEIGHT

FIRST_UNIT = 384  # that the model did not have
UNITS = 536  # all together
STEEP = 30.0  # of a step's gates, over the step: silu is a line behind it
# Between ranks of VSTs that show cards, which are 1 to 8 of each: a dozen cards are told apart at any ratio.
LIMITS = (*range(1, 17), *range(18, 29, 2), *range(32, 53, 4), *range(60, 109, 8))
WIDE = 0.004  # of the film: steps of shares
# A frame's VSTs stand, on average, three quarters of a frame behind its beginning; that is a share of a film's length.
LATER, USUAL_FRAMES = 0.75, 128
NOTED, COUNTED = 0.6, 3.0  # of what steps write: of shares, and of counts, which have less to rise by
# Of 99 in 100 VSTs with cards of colours that no film showed, the line told more than this; of 99 in 100 it told less
# of all other signs, and of frames without a card it never did.
ABSENT, SHOWN = -0.6, 0.1
EVEN_GATES = (-12.0, -5.0, -0.5)  # of units that make rows alike, see `even_weights`
UNEVEN = (0.35, 1.9)  # how large `ONE` is in text that names signs, beside what is usual


class NewUnits:
    """
    The units that widening added to a layer, used one after the other.

    Args:
        mlp: of the layer.
        first: of them.
    """

    def __init__(self, mlp: nn.Module, first: int = FIRST_UNIT):
        self.mlp, self.next = mlp, first

    @torch.no_grad()
    def add(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
        """The next unit's weights, [D] each."""
        if self.next == len(self.mlp.gate_proj.weight):
            raise ValueError(f"the layer has {self.next} units: widen it by more")
        self.mlp.gate_proj.weight[self.next] = gate
        self.mlp.up_proj.weight[self.next] = up
        self.mlp.down_proj.weight[:, self.next] = down
        self.next += 1

    def row(self, by: Mapping[int, float]) -> torch.Tensor:
        """Weights of a row's dimensions, [D]."""
        weights = torch.zeros(self.mlp.gate_proj.in_features)
        for dimension, weight in by.items():
            weights[dimension] = weight
        return weights

    def step(
        self,
        of: torch.Tensor,
        low: float,
        high: float,
        one: torch.Tensor,
        up: torch.Tensor,
        to: torch.Tensor,
        steep: float = STEEP,
    ):
        """
        Adds `to` times `up` where `of` is above `high`, nothing where it is below `low`, which are multiples of `one`.

        Args:
            of, one, up, to: [D], the first three of what the row holds, the last of what is added to it.
            steep: gates over the step, where `one` is 1.
        """
        rise = steep / (high - low)
        for edge, sense in ((low, 1), (high, -1)):
            self.add(rise * (of - edge * one), up, sense / steep * to)

    def product(self, first: torch.Tensor, second: torch.Tensor, large: torch.Tensor, to: torch.Tensor) -> None:
        """Adds `to` times the product of two; `large` is what is far above `first` in every row that matters."""
        for gate, sense in ((large + first, 1), (large, -1)):
            self.add(gate, second, sense * to)


def set_signs(units: NewUnits, weights: torch.Tensor, biases: torch.Tensor, one: float, card: float) -> None:
    """
    Layer 0: a VST's frame shows a sign, without noise: its code, kind, and that there is one.

    Args:
        weights, biases: [signs, dimensions that the model had] and [signs], which tell by more than 0 that a row, so
            long that its `ONE` is `one`, shows the sign, and by less than 0 that it does not.
        one, card: how large `ONE` is in VSTs, and in those that show cards.
    """
    is_vst = units.row({at.IS_VST: 1 / one})
    height = SIZE * (one / card) ** 2
    for number, (code, weight, bias) in enumerate(zip(at.codes()[0], weights, biases)):
        kind = at.CARDS.index(at.SIGNS[number][0])
        told = {**dict(zip(at.CODE, code.tolist())), at.KIND[kind]: 1.0, at.SIGN: 1.0}
        shown = nn.functional.pad(weight, (0, len(is_vst) - len(weight))) + bias * is_vst
        units.step(shown, ABSENT, SHOWN, is_vst, is_vst, height * units.row(told))


def _share(count: float, log_weight: float) -> float:
    """Of sight, that so many tokens have beside a sink of a weight."""
    return count / (count + math.exp(log_weight))


def set_ranks(units: NewUnits, vst: float) -> None:
    """
    Layer 2: how late and how early a VST's card comes, by factors of 2 from one limit to the next.

    Args:
        vst: how large `IS_VST` is in VSTs that show cards.
    """
    up, one = units.row({at.IS_VST: 1 / vst}), units.row({at.ONE: 1 / SIZE})
    rank = units.row({at.RANK: 1.0})
    for number, limit in enumerate(LIMITS, 1):
        edge = _share(limit + 0.5, RANK_WEIGHT)
        late, early = 2.0 ** (number - len(LIMITS)) / 8, 2.0**-number / 8
        units.step(rank, edge - 0.001, edge + 0.001, one, up, units.row({at.LATENESS: late}))
        units.step(-rank, -edge - 0.001, -edge + 0.001, one, up, units.row({at.EARLINESS: early}))


def set_products(units: NewUnits, text: float) -> None:
    """
    Layer 3: products that make a found card's clock comparable to the film's, and the film's ratio.

    A card's VSTs hand on their clock as their norm leaves it, and in the same way their `ONE`: what they are to each
    other is exact, and remains so when both are multiplied by something of the text's.

    Args:
        text: how large `ONE` is in text.
    """
    large = units.row({at.ONE: 60 / text})
    size = 10 * SIZE**2 / text**2
    for first, second, product in (
        (at.CLOCK, at.FOUND_ONE, at.LENGTH_PRODUCT),
        (at.FOUND_CLOCK, at.ONE, at.CLOCK_PRODUCT),
        (at.FOUND_ONE, at.ONE, at.ONE_PRODUCT),
    ):
        units.product(units.row({first: 1.0}), units.row({second: 1.0}), large, units.row({product: size}))
    seen = [_share(ratio, VISUAL_WEIGHT) for ratio in at.RATIOS]
    limits = [(low + high) / 2 for low, high in pairwise(seen)]
    one, up = units.row({at.RATIO_ONE: 1 / SIZE}), units.row({at.RATIO_ONE: 1 / text})
    for limit, sense, told in zip([limits[0], *limits], (-1, 1, 1, 1, 1), at.AT_LEAST):
        edge = sense * limit
        units.step(units.row({at.RATIO: sense}), edge - 0.01, edge + 0.01, one, up, units.row({told: SIZE}))


def even_weights() -> tuple[list[float], float]:
    """
    What takes out of a row how long it is. What norms leave of a code is t times as large in a row as usual; with
    gates g, t (1 + the sum of w silu(g t) t) is the same for every t in `UNEVEN`, within half a per cent.

    Returns:
        `tuple`: w for each of the gates g, and what it is the same as.
    """
    t = torch.linspace(*UNEVEN, 400, dtype=torch.float64)
    parts = torch.stack([t, *(t * t * nn.functional.silu(gate * t) for gate in EVEN_GATES)], 1)
    own, *weights = torch.linalg.lstsq(parts, torch.ones_like(t)[:, None]).solution[:, 0].tolist()
    return [weight / own for weight in weights], 1 / own


def set_even(units: NewUnits, text: float) -> None:
    """
    Layer 3: signs that text names have codes, and know how late and early they are, as large as each other's.

    Args:
        text: how large `ONE` is, as a rule, in text that names a sign.
    """
    one, size = units.row({at.ONE: 1 / text}), SIZE / text
    for dimension in (*at.CODE, at.LATENESS, at.EARLINESS):
        for gate, weight in zip(EVEN_GATES, even_weights()[0]):
            units.add(gate * one, units.row({dimension: size}), weight * units.row({dimension: 1.0}))


def set_steps(units: NewUnits, text: float) -> None:
    """
    Layer 4: in which tenth and third of the film the card is that text names, and how often it is shown.

    Args:
        text: how large `ONE` is in text.
    """
    passed = units.row({at.CLOCK_PRODUCT: 1.0, at.LENGTH_PRODUCT: -1.0})
    one, found = units.row({at.ONE_PRODUCT: 1 / SIZE}), units.row({at.FOUND: 1 / text})
    for share, told in zip(at.SHARES, at.SHARE_STEPS):
        passed_by = share + (LATER - share) / USUAL_FRAMES
        edge, half = CLOCK_SIZE * math.log(passed_by), CLOCK_SIZE * WIDE / share / 2
        units.step(passed, edge - half, edge + half, one, found, units.row({told: NOTED}))
    one = units.row({at.ONE: 1.0})
    for place, ratio in enumerate(at.RATIOS):
        here = {at.AT_LEAST[place]: 1 / text}
        if 0 < place < len(at.RATIOS) - 1:
            here[at.AT_LEAST[place + 1]] = -1 / text
        for count, told in enumerate(at.COUNT_STEPS, 1):
            edge = _share((count + 0.5) * 16 / ratio, COUNT_WEIGHT)
            written = units.row({told: COUNTED})
            units.step(units.row({at.COUNT: 1.0}), edge - 0.008, edge + 0.008, one, units.row(here), written)
