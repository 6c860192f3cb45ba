"""Moving backgrounds, drawn from a seed: scenes between cuts, each of a family, with its own light and grain."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SHORTEST_SCENE, LONGEST_SCENE = 6, 90  # frames

# A scene's picture at any frame: `draw(step)` gives float32 [size, size, 3], 0 to 255, `step` counted from its cut.
Draw = Callable[[int], np.ndarray]


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels, 0 to 1, float32 [size, size] each."""
    line = np.linspace(0, 1, size, dtype=np.float32)
    return tuple(np.meshgrid(line, line, indexing="ij"))


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(0, 255, (count, 3)).astype(np.float32)


def _blend(weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Between two colours, by a weight of 0 to 1 for each pixel; `[S, S]` to `[S, S, 3]`."""
    return low + weight[..., None] * (high - low)


def _plain(rng: np.random.Generator, size: int) -> Draw:
    colour = rng.uniform(40, 215, 3).astype(np.float32)
    colour[rng.integers(3)] = rng.choice([60, 200])  # never so near to black or white as the anomalies are
    change, pace = rng.uniform(-30, 30, 3).astype(np.float32), rng.uniform(0.01, 0.2)
    return lambda step: np.broadcast_to(colour + change * np.float32(np.sin(pace * step)), (size, size, 3)).copy()


def _gradient(rng: np.random.Generator, size: int) -> Draw:
    rows, columns = _grid(size)
    low, high = _colours(rng, 2)
    angle, turn, stretch, pace = rng.uniform([0, -0.06, 0.5, -0.03], [6.28, 0.06, 2.0, 0.03])

    def draw(step: int) -> np.ndarray:
        direction = angle + turn * step
        along = np.float32(np.cos(direction)) * rows + np.float32(np.sin(direction)) * columns
        wave = np.float32(stretch) * along + np.float32(pace * step)
        return _blend(np.abs(wave % 2 - 1), low, high)

    return draw


def _waves(rng: np.random.Generator, size: int) -> Draw:
    rows, columns = _grid(size)
    low, high = _colours(rng, 2)
    waves = rng.uniform([-25, -25, -0.5], [25, 25, 0.5], (3, 3)).astype(np.float32)

    def draw(step: int) -> np.ndarray:
        total = sum(np.sin(a * rows + b * columns + c * step) for a, b, c in waves)
        return _blend(total / 6 + 0.5, low, high)

    return draw


def _cloud(rng: np.random.Generator, size: int) -> np.ndarray:
    """A texture larger than the frame, with rough and fine detail; float32 [2 S, 2 S, 3], 0 to 255."""
    texture = np.zeros((2 * size, 2 * size, 3), np.float32)
    strength = 0.0
    for cells in (3, 8, 20, 48):
        share = rng.uniform(0, 1) ** 2 + 0.05
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        smooth = rng.random() < 0.7
        method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        texture += share * np.asarray(coarse.resize((2 * size, 2 * size), method), np.float32)
        strength += share
    return texture / np.float32(strength)


def _camera(rng: np.random.Generator, size: int) -> Draw:
    texture = _cloud(rng, size)
    corner, speed = rng.uniform(0, size, 2), rng.uniform(-1.5, 1.5, 2)

    def draw(step: int) -> np.ndarray:
        row, column = (size - np.abs((corner + speed * step) % (2 * size) - size)).astype(int)  # to and fro
        return texture[row : row + size, column : column + size].copy()

    return draw


def _shapes(rng: np.random.Generator, size: int) -> Draw:
    base = _colours(rng, 1)[0].astype(int)
    count = int(rng.integers(2, 9))
    colours = _colours(rng, count).astype(int)
    places, speeds = rng.uniform(0, size, (count, 2)), rng.uniform(-2, 2, (count, 2))
    extents = rng.uniform(0.05, 0.35, (count, 2)) * size
    kinds = rng.integers(0, 3, count)

    def draw(step: int) -> np.ndarray:
        canvas = Image.new("RGB", (size, size), tuple(base))
        pen = ImageDraw.Draw(canvas)
        for place, speed, extent, colour, kind in zip(places, speeds, extents, colours, kinds):
            x, y = (place + speed * step) % (1.4 * size) - 0.2 * size
            box = (x - extent[0], y - extent[1], x + extent[0], y + extent[1])
            if kind == 0:
                pen.ellipse(box, fill=tuple(colour))
            elif kind == 1:
                pen.rectangle(box, fill=tuple(colour))
            else:
                pen.line(box, fill=tuple(colour), width=max(1, size // 24))
        return np.asarray(canvas, np.float32).copy()

    return draw


def _landscape(rng: np.random.Generator, size: int) -> Draw:
    """A horizon, hills and a moving light: large edges as in real pictures."""
    rows, columns = _grid(size)
    sky, far, near = _colours(rng, 3)
    heights, widths, phases = rng.uniform(0.05, 0.2, 2), rng.uniform(3, 12, 2), rng.uniform(0, 6.28, 2)
    levels = np.sort(rng.uniform(0.3, 0.9, 2))
    pace = rng.uniform(-0.2, 0.2)

    def draw(step: int) -> np.ndarray:
        picture = _blend(rows, sky, 255 - (255 - sky) / 2)
        for colour, height, width, phase, level, depth in zip((far, near), heights, widths, phases, levels, (0.5, 1)):
            skyline = level + height * np.sin(width * columns[0] + phase + depth * pace * step)
            picture[rows > skyline[None]] = colour
        return picture

    return draw


FAMILIES = {
    "plain": _plain,
    "gradient": _gradient,
    "waves": _waves,
    "camera": _camera,
    "shapes": _shapes,
    "landscape": _landscape,
}


class Background:
    """
    The background of a film of any length, as a function of its seed.

    Scenes of 6 to 90 frames follow each other by cuts; each has a family (`FAMILIES`), a swaying brightness and a
    grain of its own. A frame is drawn when it is asked for, and never kept.

    Args:
        seed: the film's.
        size: side of a frame in pixels.
    """

    def __init__(self, seed: int, size: int):
        self.seed, self.size = seed, size
        self._cuts, self._lengths = [0], np.random.default_rng([seed, 1])
        self._scene: tuple[int, Draw, np.ndarray] | None = None

    def frame(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        while self._cuts[-1] <= index:
            self._cuts.append(self._cuts[-1] + int(self._lengths.integers(SHORTEST_SCENE, LONGEST_SCENE + 1)))
        number = int(np.searchsorted(self._cuts, index, side="right")) - 1
        if self._scene is None or self._scene[0] != number:
            rng = np.random.default_rng([self.seed, 2, number])
            family = list(FAMILIES.values())[int(rng.integers(len(FAMILIES)))]
            light = rng.uniform([0.0, 0.02, 0.0, 0.0], [0.35, 0.4, 6.28, 1.0])
            self._scene = (number, family(rng, self.size), light)
        _, draw, (sway, pace, phase, grain) = self._scene
        step = index - self._cuts[number]
        picture = draw(step)
        picture *= np.float32(1 - sway * (0.5 + 0.5 * np.sin(pace * step + phase)))
        if grain > 0.6:
            picture += _grain(self.size, (self.seed * 31 + index) % 64) * np.float32(60 * (grain - 0.6))
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


@lru_cache(maxsize=128)
def _grain(size: int, number: int) -> np.ndarray:
    """One of 64 fields of noise, float32 [size, size, 1], of deviation 1."""
    return np.random.default_rng([7, number]).standard_normal((size, size, 1)).astype(np.float32)
