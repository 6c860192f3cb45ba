"""What the settings of all experiments share: their checks, and the names of ratios."""

import importlib.util
from collections.abc import Sequence

from videoxl.modeling_videoxl.windows_videoxl import is_ratio
from videoxl.synthetic.questions import ANSWER_PREFIX

# How multiple choice is answered: as the model likes, and the option that its words name counts; or with the beginning
# of the answer given, as in the authors' evaluation, so that a letter is all that is left to say.
ANSWER_STARTS = {"free": None, "letter": ANSWER_PREFIX}


def ordered(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values in order, each once. Raises a `ValueError` where there is none."""
    if not values:
        raise ValueError(f"{name} is empty: give at least one")
    return tuple(sorted(set(values)))


def check_counts(name: str, values: Sequence[int], least: int = 1) -> None:
    """Raises a `ValueError` unless all are `least` or more."""
    if any(value < least for value in values):
        raise ValueError(f"{name}={list(values)}: give {least} or more")


def check_ratios(ratios: Sequence[int], window: int | None = None) -> None:
    """Raises a `ValueError` for what is no compression ratio, or one that no `window` of visual tokens can hold."""
    if not all(is_ratio(ratio) for ratio in ratios):
        raise ValueError(f"ratios={list(ratios)}: give positive integers, or 0 for no compression")
    if window is not None and max(ratios) > window:
        raise ValueError(
            f"ratios={list(ratios)}: a window of this model has {window} visual tokens; give ratios up to that"
        )


def check_shared(settings) -> None:
    """Raises a `ValueError` for what no experiment can mean by its `ratios`, `answers` or `seed`."""
    check_ratios(settings.ratios)
    if settings.answers not in ANSWER_STARTS:
        raise ValueError(f"answers={settings.answers!r}: give one of {list(ANSWER_STARTS)}")
    if settings.seed < 0:
        raise ValueError(f"seed={settings.seed}: give 0 or more")


def check_drawing() -> None:
    """Raises a `ValueError` where the pictures could not be drawn in the end."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the results are drawn with matplotlib: install videoxl[eval].")


def ratio_way(ratio: int) -> str:
    """The name of reading at `ratio`, among the ways to answer."""
    return f"{ratio}x"


def left_of_frame(ratio: int, tokens_per_frame: int) -> str:
    """What a frame leaves in memory, as in "2 VSTs a frame"."""
    count = tokens_per_frame / ratio if ratio else tokens_per_frame
    kind = "VST" if ratio else "visual token"
    return f"{count:.3g} {kind}{'' if count == 1 else 's'} a frame"


def ratio_name(ratio: int, tokens_per_frame: int) -> str:
    """As tables name a ratio, with what it leaves of a frame beside it."""
    return f"{ratio_way(ratio) if ratio else 'no compression'}, {left_of_frame(ratio, tokens_per_frame)}"
