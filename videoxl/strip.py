"""The picture of a film: frames side by side, and where in it a needle stands."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN = 1600, 40  # pixels
SHOWN = 16  # frames in the strip
NEEDLE = 210  # side of a needle's frame under the strip
GROUND, INK, FAINT, ACCENT = "#ffffff", "#1f2430", "#8a90a0", "#d6336c"


def draw_strip(
    title: str, frame: Callable[[int], np.ndarray], frames: int, marks: Sequence[tuple[int, str]]
) -> Image.Image:
    """
    Args:
        title: stands above the strip.
        frame: gives the frame of an index, uint8 [S, S, 3].
        frames: how many the film has.
        marks: index and caption of the frames that are shown large, in order; room is for seven.
    """
    cell = (WIDTH - 2 * MARGIN) // SHOWN
    left, top, right = MARGIN, 84, MARGIN + SHOWN * cell
    picture = Image.new("RGB", (WIDTH, top + cell + 110 + NEEDLE + 64), GROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((left, 24), title, INK, ImageFont.load_default(30))
    for number in range(SHOWN):
        index = int((number + 0.5) * frames / SHOWN)
        picture.paste(_square(frame(index), cell - 3), (left + number * cell + 1, top))
    bottom = top + cell
    for index in np.linspace(0, frames - 1, 7).round().astype(int).tolist():
        x = _place(index, frames, left, right)
        pen.line((x, bottom + 2, x, bottom + 9), FAINT, 2)
        pen.text((x, bottom + 13), str(index), FAINT, ImageFont.load_default(17), anchor="ma")
    places = [_place(index, frames, left, right) for index, _ in marks]
    for (index, caption), x, middle in zip(marks, places, _apart(places, left, right)):
        _mark(pen, x, middle, top, bottom)
        corner = (middle - NEEDLE // 2, bottom + 110)
        picture.paste(_square(frame(index), NEEDLE), corner)
        pen.rectangle((corner[0] - 3, corner[1] - 3, corner[0] + NEEDLE + 2, corner[1] + NEEDLE + 2), None, ACCENT, 3)
        pen.text((middle, corner[1] + NEEDLE + 10), caption, INK, ImageFont.load_default(19), anchor="ma")
        pen.text((middle, corner[1] + NEEDLE + 34), f"frame {index}", FAINT, ImageFont.load_default(17), anchor="ma")
    return picture


def _square(frame: np.ndarray, side: int) -> Image.Image:
    enlarged = Image.Resampling.NEAREST if side >= 2 * len(frame) else Image.Resampling.LANCZOS
    return Image.fromarray(frame).resize((side, side), enlarged)


def _place(index: int, frames: int, left: int, right: int) -> int:
    return round(left + (index + 0.5) / frames * (right - left))


def _apart(places: Sequence[int], left: int, right: int) -> list[int]:
    """Near the places, so far from each other that the pictures there do not touch, and between the borders."""
    step, half = NEEDLE + 8, NEEDLE // 2
    middles: list[int] = []
    for x in places:
        middles.append(max(x, left + half, middles[-1] + step if middles else 0))
    for number in reversed(range(len(middles))):
        after = middles[number + 1] - step if number + 1 < len(middles) else right - half
        middles[number] = min(middles[number], after)
    return middles


def _mark(pen: ImageDraw.ImageDraw, x: int, middle: int, top: int, bottom: int) -> None:
    """A line through the strip, an arrow to it, and a line from there to the picture below."""
    pen.line((x, top - 8, x, bottom), ACCENT, 3)
    pen.polygon([(x, bottom + 2), (x - 9, bottom + 18), (x + 9, bottom + 18)], ACCENT)
    pen.line((x, bottom + 18, x, bottom + 74, middle, bottom + 74, middle, bottom + 108), ACCENT, 3)
