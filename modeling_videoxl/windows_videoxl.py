"""The plan of a sequence: which passes it takes, which windows they are, and where the VSTs stand in them.

Nothing here touches a tensor of the model: a plan is computed on the CPU before the first pass, from the placeholder
positions alone, so that no pass waits for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TEXT, IMAGE, VIDEO = 0, 1, 2  # as in transformers' `mm_token_type_ids`


@dataclass(frozen=True)
class Segment:
    """
    One pass over rows `start` to `stop` of the new tokens: a piece of text, or one window of a visual span.

    Args:
        start, stop (`int`): the rows of the original tokens, VSTs not counted.
        visual (`bool`): whether the rows are visual tokens, whose embeddings are features.
        ratio (`int`): compression ratio of a window; 0 keeps every row (text always does).
        first (`int`): visual tokens before the first VST, when there is one: `r - c` of the page.
        regular (`int`): VSTs at every `ratio`-th visual token.
        closing (`int`): 1 if one more VST stands behind the last row and sums up what no regular VST does.
    """

    start: int
    stop: int
    visual: bool = False
    ratio: int = 0
    first: int = 0
    regular: int = 0
    closing: int = 0

    @property
    def length(self) -> int:
        """Original tokens of the pass."""
        return self.stop - self.start

    @property
    def beacons(self) -> int:
        """VSTs of the pass."""
        return self.regular + self.closing

    @property
    def rows(self) -> int:
        """Rows that go through the layers: original tokens and VSTs."""
        return self.length + self.beacons

    @property
    def kept(self) -> int:
        """K/V entries that stay after the pass."""
        return self.beacons if self.ratio else self.length

    @property
    def beacon_rows(self) -> tuple[slice, ...]:
        """Where the VSTs stand among the pass's rows: every (r + 1)-th from row r - c on, and the closing one."""
        step = self.ratio + 1
        regular = slice(self.first, self.first + (self.regular - 1) * step + 1, step)
        closing = slice(self.rows - 1, self.rows)
        return ((regular,) if self.regular else ()) + ((closing,) if self.closing else ())


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of the new tokens that are the visual tokens of one image or one video."""

    kind: int
    start: int
    stop: int
    item: int  # index among the call's images or videos

    @property
    def length(self) -> int:
        """Visual tokens of the span."""
        return self.stop - self.start


def is_ratio(value) -> bool:
    """Whether `value` can be a compression ratio: a positive integer, or 0 for no compression."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0


def window_lengths(length: int, window: int) -> list[int]:
    """Visual tokens of each window of a span of `length` tokens; the last one takes what is left."""
    return [min(window, length - start) for start in range(0, length, window)]


def find_spans(types: Sequence[int], items: dict[int, "Items"], row: int) -> list[Span]:
    """
    Gives every run of placeholders of one row to the images and videos that the call still has, in order.

    Args:
        types: `TEXT`, `IMAGE` or `VIDEO` for each new token of the row, padding left out.
        items: the call's images and videos by kind, consumed from the front.
        row: index of the row, for the error.

    Raises:
        ValueError: where an image's or video's tokens are more than the placeholders left in a run, or none is left.
    """
    types = np.asarray(types)
    borders = [0, *(np.flatnonzero(np.diff(types)) + 1).tolist(), len(types)]
    spans: list[Span] = []
    for start, stop in pairwise(borders):
        if start == stop or types[start] == TEXT:
            continue
        kind = int(types[start])
        while start < stop:
            item, length = items[kind].take(stop - start, row)
            spans.append(Span(kind, start, start + length, item))
            start += length
    return spans


class Items:
    """The images, or the videos, of one call: their visual-token counts, handed out to runs of placeholders."""

    def __init__(self, name: str, lengths: Sequence[int], placeholders: int):
        self.name, self.lengths, self.next = name, list(lengths), 0
        if sum(self.lengths) != placeholders:
            raise ValueError(
                f"The new tokens hold {placeholders} {name} placeholders, but the {name} features are "
                f"{sum(self.lengths)} visual tokens ({len(self.lengths)} {name}s of {self.lengths[:8]}"
                f"{'…' if len(self.lengths) > 8 else ''}). Give one placeholder per visual token, and pass the "
                "features of the placeholders that the cache has not seen, no others."
            )

    def take(self, available: int, row: int) -> tuple[int, int]:
        """The next item's index and length, which must fit into the `available` placeholders of row `row`'s run."""
        length = self.lengths[self.next] if self.next < len(self.lengths) else 0
        if not 0 < length <= available:
            raise ValueError(
                f"Row {row}: a run of placeholders has {available} left for {self.name} {self.next}, which has "
                f"{length} visual tokens. Give every {self.name} its own full run of placeholders, in order."
            )
        self.next += 1
        return self.next - 1, length


class RatioSetting:
    """
    What a call says about compression, resolved window by window.

    Args:
        setting: an int for all windows, a list with one per window, or `None` for the default.
        default: the ratio for `None` at inference.
        choices: the ratios of training, of which `None` draws one at random for each window.
        window: visual tokens of a full window, which no ratio may exceed.
        draws: the generator that draws window `w`'s ratio, given `w`; `None` at inference.

    Raises:
        ValueError: for a ratio that is no integer >= 0, or larger than the window.
    """

    def __init__(
        self,
        setting: int | Sequence[int] | None,
        default: int,
        choices: Sequence[int],
        window: int,
        draws: Callable[[int], np.random.Generator] | None = None,
    ):
        self.setting, self.default, self.choices, self.draws = setting, default, choices, draws
        named = [] if setting is None else [setting] if is_ratio(setting) else setting
        if not isinstance(named, list | tuple) or not all(is_ratio(ratio) for ratio in named):
            raise ValueError(
                f"compression_ratio={setting!r}: give a positive integer, 0 for no compression, a list with one such "
                "number per window, or None."
            )
        if any(ratio > window for ratio in named):
            raise ValueError(f"compression_ratio={setting!r}: a window has {window} visual tokens; give at most that.")

    def for_windows(self, lengths: Sequence[int]) -> list[int]:
        """One ratio for each of a row's windows, whose lengths are given over all its spans in order."""
        if self.setting is None and self.draws is not None:
            return [self._draw(self.draws(index), length) for index, length in enumerate(lengths)]
        if self.setting is None or is_ratio(self.setting):
            return [int(self.default if self.setting is None else self.setting)] * len(lengths)
        if len(self.setting) != len(lengths):
            raise self._wrong_length(lengths)
        return [int(ratio) for ratio in self.setting]

    def of_window(self, index: int, lengths: Sequence[int]) -> int:
        """The ratio of window `index`, where only the `lengths` of the windows so far are known."""
        if isinstance(self.setting, list | tuple):
            if index >= len(self.setting):
                raise self._wrong_length(lengths)
            return int(self.setting[index])
        return self.for_windows(lengths[index : index + 1])[0]

    def _wrong_length(self, lengths: Sequence[int]) -> ValueError:
        return ValueError(
            f"compression_ratio lists {len(self.setting)} ratios, but the visual tokens make {len(lengths)} windows "
            f"(of {list(lengths[:8])}{'…' if len(lengths) > 8 else ''} tokens): give one per window, over all spans "
            "in order."
        )

    def _draw(self, rng: np.random.Generator, length: int) -> int:
        dividing = [ratio for ratio in self.choices if ratio == 0 or length % ratio == 0]
        return int(rng.choice(dividing)) if dividing else min(self.choices)


class SpanPlanner:
    """
    Turns the windows of one span, in order, into segments; carries what the windows before left over.

    A regular VST stands behind every `r`-th visual token, the tokens that the windows before left over counted in.
    Where the ratio changes and more was left over than the new ratio takes, the first VST comes behind one token.

    Args:
        summarize_remainder (`bool`): close the span with one more VST when tokens are left over at its end.
    """

    def __init__(self, summarize_remainder: bool):
        self.summarize_remainder, self.carry = summarize_remainder, 0

    def window(self, start: int, length: int, ratio: int, last: bool) -> Segment:
        """The next window: rows `start` to `start + length`; `last` if the span ends with it."""
        if ratio == 0:
            self.carry = 0
            return Segment(start, start + length, visual=True)
        carry = min(self.carry, ratio - 1)
        regular, self.carry = divmod(length + carry, ratio)
        closing = int(last and self.summarize_remainder and self.carry > 0)
        return Segment(start, start + length, True, ratio, ratio - carry, regular, closing)

    @property
    def lost(self) -> int:
        """Visual tokens at the end of the span that no VST sums up, once its last window is planned."""
        return 0 if self.summarize_remainder else self.carry


def plan_row(length: int, spans: Sequence[Span], setting: RatioSetting, window: int, summarize_remainder: bool):
    """
    The passes of one row: text, window, …, window, text, in order.

    Returns:
        `tuple[list[Segment], int]`: the passes, and how many visual tokens no VST sums up.
    """
    ratios = iter(setting.for_windows([m for span in spans for m in window_lengths(span.length, window)]))
    segments, position, lost = [], 0, 0
    for span in spans:
        if position < span.start:
            segments.append(Segment(position, span.start))
        planner = SpanPlanner(summarize_remainder)
        for start in range(span.start, span.stop, window):
            stop = min(start + window, span.stop)
            segments.append(planner.window(start, stop - start, next(ratios), stop == span.stop))
        lost += planner.lost
        position = span.stop
    if position < length:
        segments.append(Segment(position, length))
    return segments, lost
