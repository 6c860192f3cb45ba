"""Which frames of a video are read: the authors' sampling rules over the frames that can be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

#: Used when neither `num_frames` nor `fps` is asked for.
DEFAULT_FPS = 1.0
DEFAULT_MAX_FRAMES = 256
SAMPLINGS = ("uniform", "keyframes")


@dataclass(frozen=True)
class FrameSampling:
    """What the caller asked for, checked.

    Args:
        num_frames: this many frames, uniformly: `np.linspace(0, n - 1, num_frames, dtype=int)` (the authors'
            evaluation).
        fps: every `round(rate / fps)`-th frame (the authors' training). With neither `num_frames` nor `fps`: 1 per
            second, at most 256 frames.
        max_frames: cap of the `fps` rule; over it `np.linspace` picks this many among the frames that can be shown.
        start, end: seconds from the first frame; frames shown at `start <= t < end` are sampled.
        repeat_frames: `num_frames` beyond what there is repeats frames, as the authors' code does, instead of
            returning the frames there are.
        every_frame: no sampling at all.
        sampling: "uniform" for the frames that the rule names, or "keyframes" for the keyframe nearest to each of
            them, of which nothing else needs to be decoded: much faster, fewer frames, other times.

    Raises:
        ValueError: an argument that cannot be meant, with its name and the mend.
    """

    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    repeat_frames: bool = False
    every_frame: bool = False
    sampling: str = "uniform"

    def __post_init__(self):
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"`sampling` must be {' or '.join(map(repr, SAMPLINGS))}, got {self.sampling!r}.")
        check_positive_int("num_frames", self.num_frames)
        check_positive_int("max_frames", self.max_frames)
        _check_seconds("start", self.start)
        _check_seconds("end", self.end)
        if self.fps is not None and (not _is_number(self.fps) or self.fps <= 0):
            raise ValueError(f"`fps` must be a number of frames per second above 0, got {self.fps!r}.")
        if self.num_frames is not None and self.fps is not None:
            raise ValueError(
                f"`num_frames={self.num_frames}` and `fps={self.fps}` are two different rules: give one of them "
                "(`fps` may be capped with `max_frames`)."
            )
        if self.num_frames is not None and self.max_frames is not None:
            raise ValueError("`max_frames` caps `fps`; with `num_frames` leave it out.")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"`start={self.start}` must be before `end={self.end}` (seconds).")
        if self.repeat_frames and self.num_frames is None:
            raise ValueError("`repeat_frames=True` goes with `num_frames`.")
        if self.sampling == "keyframes" and (self.repeat_frames or self.every_frame):
            raise ValueError(
                "`sampling='keyframes'` gives each keyframe once: leave out repeat_frames, do_sample_frames."
            )
        if self.every_frame and (self.num_frames is not None or self.fps is not None or self.max_frames is not None):
            raise ValueError("`do_sample_frames=False` reads every frame: leave out num_frames, fps, max_frames.")

    @property
    def needs_clock(self) -> bool:
        """Whether the request speaks of seconds, so that frames without times cannot answer it."""
        return self.fps is not None or self.start is not None or self.end is not None

    def window(self, times: np.ndarray, duration: float) -> tuple[int, int]:
        """First and one-past-last index of the frames in `start <= t < end`.

        A window that falls between two frames holds the frame on display at its start.
        """
        start = 0.0 if self.start is None else self.start
        if start >= duration:
            raise ValueError(f"`start={start}` lies behind the end of the video, which lasts {duration:.3f} s.")
        first = int(np.searchsorted(times, start, side="left"))
        last = len(times) if self.end is None else int(np.searchsorted(times, self.end, side="left"))
        if first >= last:
            first = int(np.searchsorted(times, start, side="right")) - 1
            last = first + 1
        return first, last

    def indices(self, times: np.ndarray, rate: float, duration: float) -> np.ndarray:
        """Indices of the sampled frames, ascending; repeats only with `repeat_frames`.

        Args:
            times: seconds of every frame that can be shown, ascending from 0, float64 [n].
            rate: frames per second.
            duration: seconds, to the end of the last frame's display.
        """
        first, last = self.window(times, duration)
        count = last - first
        if self.num_frames is not None:
            return first + self._uniform(count)
        if self.every_frame:
            return np.arange(first, last)
        fps = DEFAULT_FPS if self.fps is None else float(self.fps)
        cap = self.max_frames
        if cap is None and self.fps is None:
            cap = DEFAULT_MAX_FRAMES
        picked = np.arange(0, count, max(1, round(rate / fps)))
        if cap is not None and len(picked) > cap:
            picked = np.linspace(0, count - 1, cap, dtype=int)
        return first + picked

    def nearest(self, indices: np.ndarray, keys: np.ndarray, times: np.ndarray, duration: float) -> np.ndarray:
        """Indices of the keyframes nearest in time to the frames `indices`, each once, ascending.

        Args:
            indices: what `indices` gave.
            keys: indices of the keyframes, ascending, at least one.
            times, duration: as in `indices`.
        """
        first, last = self.window(times, duration)
        inside = keys[(keys >= first) & (keys < last)]
        keys = inside if len(inside) else keys
        after = np.searchsorted(times[keys], times[indices]).clip(max=len(keys) - 1)  # [F]
        before = (after - 1).clip(min=0)
        nearer = times[indices] - times[keys[before]] <= times[keys[after]] - times[indices]
        return np.unique(keys[np.where(nearer, before, after)])

    def _uniform(self, count: int) -> np.ndarray:
        if self.num_frames > count and not self.repeat_frames:
            logger.warning(
                f"num_frames={self.num_frames} was asked for, but there are {count} frames: returning these {count} "
                "(repeat_frames=True would repeat frames)."
            )
            return np.arange(count)
        return np.linspace(0, count - 1, self.num_frames, dtype=int)


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive_int(name: str, value) -> None:
    if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def _check_seconds(name: str, value) -> None:
    if value is not None and (not _is_number(value) or value < 0):
        raise ValueError(f"`{name}` must be a number of seconds, 0 or more, got {value!r}.")
