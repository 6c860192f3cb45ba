"""Needles: what is shown in exactly one frame, on a card of its own look, drawn over the film."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (214, 32, 32),
    "green": (24, 150, 54),
    "blue": (32, 64, 214),
    "yellow": (245, 214, 32),
    "purple": (140, 40, 170),
    "orange": (245, 130, 20),
    "white": (248, 248, 248),
    "black": (12, 12, 12),
}
# O, I, S, B, Z, G and Q are left out: a small picture of them is a number's, or each other's.
LETTERS = tuple("ACDEFHJKLMNPRTUVWXY")
NUMBERS = tuple("0123456789")
SYMBOLS = ("star", "heart", "moon", "cross", "ring", "diamond", "arrow", "triangle")
PRODUCTS = ("coffee", "cars", "phones", "shoes", "pizza", "watches", "books", "juice")
ANOMALIES = ("black screen", "white screen", "static", "colour bars", "stripes")
VALUES = {
    "number": NUMBERS,
    "letter": LETTERS,
    "symbol": SYMBOLS,
    "advertisement": PRODUCTS,
    "anomaly": ANOMALIES,
}
CARDS = ("number", "letter", "symbol")  # the kinds that are shown on a coloured card
OTHER_SIGNS = "OISBZGQ?!%&@#+<>"
UNNAMED = 110  # from every named colour, as the sum of differences over red, green and blue
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Needle:
    """
    What one frame shows.

    Args:
        kind: a key of `VALUES`.
        value: one of `VALUES[kind]`.
        colour: of the card, or of the advertisement's stripes, a key of `COLOURS`; "" for anomalies, which have none.
        look: seed of place, size, tilt and style.
    """

    kind: str
    value: str
    colour: str = ""
    look: int = 0

    def __post_init__(self):
        if self.kind not in VALUES or self.value not in VALUES[self.kind]:
            raise ValueError(f"Needle({self.kind!r}, {self.value!r}): no such kind or value; there are {VALUES}")
        if (self.colour in COLOURS) != (self.kind != "anomaly"):
            raise ValueError(f"Needle({self.kind!r}): colour={self.colour!r}; give one of {tuple(COLOURS)}, or none")

    @property
    def name(self) -> str:
        """As questions and answers name it: "the letter K", "the star"."""
        return f"the {self.kind} {self.value}" if self.kind in ("number", "letter") else f"the {self.value}"


def colours_of(split: str, kind: str, value: str) -> tuple[str, ...]:
    """
    The colours that `value` is shown in by films of `split`: of the eight, one is the test's and one the validation's,
    other ones for every value, and no other split ever shows them together. Anomalies have none to tell them apart by.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: give one of {SPLITS}")
    if kind == "anomaly":
        return ("",)
    held_out = {(VALUES[kind].index(value) + 3 * number) % len(COLOURS): name for number, name in enumerate(COLOURS)}
    named = {"test": (held_out[0],), "validation": (held_out[1],)}
    return named.get(split) or tuple(colour for place, colour in held_out.items() if place > 1)


def overlay(frame: np.ndarray, needle: Needle) -> np.ndarray:
    """`frame` uint8 [H, W, 3] with the needle over it, a new array."""
    rng = np.random.default_rng([needle.look, 11])
    if needle.kind == "anomaly":
        return _anomaly(needle.value, frame.shape, rng)
    side = min(frame.shape[:2])
    if needle.kind == "advertisement":
        return _pasted(frame, _advertisement(needle, side, rng), rng)
    return _pasted(frame, _card(needle.kind, needle.value, COLOURS[needle.colour], side, rng), rng)


def overlay_practice_card(frame: np.ndarray, look: int, kind: str, value: str, colour: str) -> np.ndarray:
    """
    A card that no film shows: on a plate of a colour without a name, or with a sign that is no needle's.

    Every value has colours that training never shows it in. Who learns from films' cards alone learns that as well,
    and reads such a card wrongly; from these, signs and colours are learned each by itself.

    Args:
        frame: uint8 [H, W, 3].
        look: seed of place, size, tilt, style, and of what is not given.
        kind, value: of the sign; "" for another one.
        colour: of the plate, a key of `COLOURS`; "" for another one.
    """
    rng = np.random.default_rng([look, 13])
    plate = COLOURS[colour] if colour else _unnamed_colour(rng)
    if not value:
        kind, value = "letter", str(rng.choice(list(OTHER_SIGNS)))
    return _pasted(frame, _card(kind, value, plate, min(frame.shape[:2]), rng), rng)


def _unnamed_colour(rng: np.random.Generator) -> tuple[int, ...]:
    while True:
        colour = rng.integers(0, 256, 3)
        if min(np.abs(colour - named).sum() for named in np.array(list(COLOURS.values()))) > UNNAMED:
            return tuple(colour.tolist())


def _pasted(frame: np.ndarray, card: Image.Image, rng: np.random.Generator) -> np.ndarray:
    picture = Image.fromarray(frame)
    room = [max(0, whole - part) for whole, part in zip(picture.size, card.size)]
    place = tuple(int(rng.uniform(0, 1) * gap) for gap in room)
    picture.paste(card, place, card)
    return np.array(picture)


def _card(kind: str, value: str, colour: tuple[int, ...], side: int, rng: np.random.Generator) -> Image.Image:
    """RGBA: a plate of a colour with a sign, tilted a little."""
    size = int(side * rng.uniform(0.6, 0.95))
    shade = rng.uniform(-14, 14, 3)
    plate = tuple(int(np.clip(value + change, 0, 255)) for value, change in zip(colour, shade))
    bright = sum(weight * value for weight, value in zip((0.3, 0.6, 0.1), plate)) > 115
    ink = (16, 16, 16, 255) if bright else (244, 244, 244, 255)
    card = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(card)
    shape = rng.integers(3)
    outline = ink if rng.random() < 0.4 else None
    if shape == 0:
        pen.rectangle((0, 0, size - 1, size - 1), fill=(*plate, 255), outline=outline, width=max(1, size // 20))
    elif shape == 1:
        pen.rounded_rectangle((0, 0, size - 1, size - 1), size // 4, (*plate, 255), outline, max(1, size // 20))
    else:
        pen.ellipse((0, 0, size - 1, size - 1), fill=(*plate, 255), outline=outline, width=max(1, size // 20))
    sign = int(size * rng.uniform(0.58, 0.72))
    mask = _symbol(value, sign) if kind == "symbol" else _glyph(value, sign, rng.random() < 0.5)
    corner = tuple((size - extent) // 2 for extent in mask.size)
    card.paste(ink, (*corner, corner[0] + mask.size[0], corner[1] + mask.size[1]), mask)
    return card.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)


def _glyph(text: str, height: int, bold: bool) -> Image.Image:
    """A mask ("L") of a letter or number, `height` pixels high."""
    mask = _large_glyph(text, bold)
    return mask.resize((max(1, round(height * mask.width / mask.height)), height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=128)
def _large_glyph(text: str, bold: bool) -> Image.Image:
    font = ImageFont.load_default(size=96)
    stroke = 5 if bold else 1
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=stroke)
    return mask


def _symbol(name: str, side: int) -> Image.Image:
    """A mask ("L") of a symbol, drawn large and made small."""
    return _large_symbol(name).resize((side, side), Image.Resampling.BICUBIC)


@lru_cache(maxsize=16)
def _large_symbol(name: str) -> Image.Image:
    whole = 192
    mask = Image.new("L", (whole, whole))
    _SYMBOLS[name](ImageDraw.Draw(mask), whole)
    return mask


def _star(pen: ImageDraw.ImageDraw, s: int) -> None:
    radii = (0.5, 0.2)
    turns = [(radii[n % 2], math.pi * n / 5 - math.pi / 2) for n in range(10)]
    pen.polygon([(s * (0.5 + r * math.cos(a)), s * (0.5 + r * math.sin(a))) for r, a in turns], 255)


def _heart(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, s * 0.05, s * 0.52, s * 0.55), 255)
    pen.ellipse((s * 0.48, s * 0.05, s, s * 0.55), 255)
    pen.polygon([(s * 0.05, s * 0.42), (s * 0.95, s * 0.42), (s * 0.5, s)], 255)


def _moon(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, s, s), 255)
    pen.ellipse((s * 0.32, -s * 0.06, s * 1.2, s * 0.82), 0)


def _cross(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.rectangle((s * 0.36, 0, s * 0.64, s), 255)
    pen.rectangle((0, s * 0.36, s, s * 0.64), 255)


def _ring(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, s, s), 255)
    pen.ellipse((s * 0.25, s * 0.25, s * 0.75, s * 0.75), 0)


def _diamond(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.polygon([(s * 0.5, 0), (s * 0.88, s * 0.5), (s * 0.5, s), (s * 0.12, s * 0.5)], 255)


def _arrow(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.rectangle((0, s * 0.38, s * 0.55, s * 0.62), 255)
    pen.polygon([(s * 0.5, s * 0.1), (s, s * 0.5), (s * 0.5, s * 0.9)], 255)


def _triangle(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.polygon([(s * 0.5, s * 0.04), (s, s * 0.94), (0, s * 0.94)], 255)


_SYMBOLS = {
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "arrow": _arrow,
    "triangle": _triangle,
}


def _advertisement(needle: Needle, side: int, rng: np.random.Generator) -> Image.Image:
    """RGBA: a picture of the product in a frame of two-coloured stripes, as no card has."""
    size = int(side * rng.uniform(0.75, 1.0))
    others = [colour for colour in COLOURS if colour != needle.colour]
    tones = (COLOURS[needle.colour], COLOURS[others[int(rng.integers(len(others)))]])
    page = Image.new("RGBA", (size, size), (*tones[0], 255))
    pen = ImageDraw.Draw(page)
    band = max(2, size // 9)
    for place in range(0, 2 * size, 2 * band):  # stripes, of which the frame stays to be seen
        pen.line((place, 0, place - size, size), fill=(*tones[1], 255), width=band)
    inner = int(size * 0.74)
    ground = Image.new("RGBA", (inner, inner), (255, 255, 255, 255))
    _PRODUCTS[needle.value](ImageDraw.Draw(ground), inner, tuple(int(value) for value in rng.integers(0, 150, 3)))
    page.paste(ground, ((size - inner) // 2, (size - inner) // 2))
    return page


def _coffee(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.rectangle((s * 0.2, s * 0.4, s * 0.65, s * 0.9), ink)
    pen.arc((s * 0.5, s * 0.48, s * 0.88, s * 0.8), -90, 90, ink, max(1, s // 12))
    for x in (0.3, 0.45):
        pen.line((s * x, s * 0.08, s * x, s * 0.3), ink, max(1, s // 14))


def _cars(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.rectangle((s * 0.05, s * 0.45, s * 0.95, s * 0.7), ink)
    pen.polygon([(s * 0.22, s * 0.46), (s * 0.35, s * 0.22), (s * 0.65, s * 0.22), (s * 0.8, s * 0.46)], ink)
    for x in (0.15, 0.62):
        pen.ellipse((s * x, s * 0.6, s * (x + 0.25), s * 0.85), (0, 0, 0), (255, 255, 255))


def _phones(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.rounded_rectangle((s * 0.28, s * 0.05, s * 0.72, s * 0.95), s * 0.08, ink)
    pen.rectangle((s * 0.34, s * 0.15, s * 0.66, s * 0.78), (225, 235, 245))


def _shoes(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    heel, toe = s * 0.1, s * 0.95
    pen.polygon([(heel, s * 0.2), (s * 0.4, s * 0.2), (s * 0.5, s * 0.5), (toe, s * 0.62), (toe, s * 0.75)], ink)
    pen.polygon([(heel, s * 0.2), (toe, s * 0.75), (heel, s * 0.75)], ink)
    pen.rectangle((heel, s * 0.75, toe, s * 0.85), (0, 0, 0))


def _pizza(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.polygon([(s * 0.05, s * 0.12), (s * 0.95, s * 0.12), (s * 0.5, s * 0.97)], (240, 190, 60), ink)
    pen.rectangle((s * 0.03, s * 0.05, s * 0.97, s * 0.16), ink)
    for x, y in ((0.35, 0.3), (0.6, 0.35), (0.48, 0.58)):
        pen.ellipse((s * (x - 0.08), s * (y - 0.08), s * (x + 0.08), s * (y + 0.08)), (200, 30, 30))


def _watches(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.rectangle((s * 0.38, 0, s * 0.62, s), ink)
    pen.ellipse((s * 0.18, s * 0.18, s * 0.82, s * 0.82), (255, 255, 255), ink, max(2, s // 12))
    pen.line((s * 0.5, s * 0.5, s * 0.5, s * 0.3), ink, max(1, s // 18))
    pen.line((s * 0.5, s * 0.5, s * 0.65, s * 0.5), ink, max(1, s // 18))


def _books(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.polygon([(s * 0.5, s * 0.3), (s * 0.04, s * 0.15), (s * 0.04, s * 0.8), (s * 0.5, s * 0.95)], ink)
    pen.polygon([(s * 0.53, s * 0.3), (s * 0.96, s * 0.15), (s * 0.96, s * 0.8), (s * 0.53, s * 0.95)], ink)


def _juice(pen: ImageDraw.ImageDraw, s: int, ink) -> None:
    pen.polygon([(s * 0.22, s * 0.3), (s * 0.78, s * 0.3), (s * 0.66, s * 0.96), (s * 0.34, s * 0.96)], (250, 150, 30))
    pen.line((s * 0.22, s * 0.3, s * 0.34, s * 0.96), ink, max(1, s // 16))
    pen.line((s * 0.78, s * 0.3, s * 0.66, s * 0.96), ink, max(1, s // 16))
    pen.line((s * 0.5, s * 0.6, s * 0.72, s * 0.02), ink, max(1, s // 14))


_PRODUCTS = {
    "coffee": _coffee,
    "cars": _cars,
    "phones": _phones,
    "shoes": _shoes,
    "pizza": _pizza,
    "watches": _watches,
    "books": _books,
    "juice": _juice,
}


def _anomaly(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A whole frame that no scene has; uint8 of `shape`."""
    height, width = shape[:2]
    if name in ("black screen", "white screen"):
        return np.full(shape, 3 if name == "black screen" else 252, np.uint8)
    if name == "static":
        cells = rng.integers(0, 2, (-(-height // 2), -(-width // 2), 1), dtype=np.uint8) * 255
        return np.broadcast_to(cells.repeat(2, 0).repeat(2, 1)[:height, :width], shape).copy()
    if name == "colour bars":
        bars = np.array([[255] * 3, *(COLOURS[c] for c in ("yellow", "green", "purple", "red", "blue"))], np.uint8)
        return np.broadcast_to(bars[np.arange(width) * len(bars) // width][None], shape).copy()
    period = max(4, round(height * float(rng.uniform(0.12, 0.2))))
    dark = (np.arange(height) % period < period // 2)[:, None, None]
    return np.where(dark, np.uint8(10), np.uint8(245)) * np.ones(shape, np.uint8)
