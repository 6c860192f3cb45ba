"""Films of any length, drawn frame by frame from a seed and never stored."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .backgrounds import Background
from .needles import Needle, overlay

FRAME_SIZE = 64  # side of a drawn frame in pixels, which the small checkpoint sees as it is


@dataclass(frozen=True)
class Film:
    """
    A drawn film: a moving background with needles, each in exactly one frame.

    Args:
        seed: of the background.
        frames: how many there are.
        needles: pairs of frame index and [`Needle`], in order.
        size: side of a frame in pixels.

    Raises:
        ValueError: for a needle outside the film, or two in one frame.
    """

    seed: int
    frames: int
    needles: tuple[tuple[int, Needle], ...] = ()
    size: int = FRAME_SIZE
    _background: Background = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        places = [index for index, _ in self.needles]
        if self.frames < 1 or any(not 0 <= index < self.frames for index in places):
            raise ValueError(f"a film of {self.frames} frames cannot show needles at {places}")
        if places != sorted(set(places)):
            raise ValueError(f"needles stand at {places}: give each a frame of its own, in order")
        object.__setattr__(self, "_background", Background(self.seed, self.size))

    def frame(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        if not 0 <= index < self.frames:
            raise IndexError(f"frame {index} of a film of {self.frames} frames")
        picture = self._background.frame(index)
        needle = dict(self.needles).get(index)
        return picture if needle is None else overlay(picture, needle)

    def array(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames `start` to `stop`, uint8 [n, size, size, 3]."""
        return np.stack([self.frame(index) for index in range(start, self.frames if stop is None else stop)])

    def chunks(self, size: int = 16) -> Iterator[np.ndarray]:
        """All frames in pieces of at most `size`, as `array` gives them; only one piece is in memory at a time."""
        for start in range(0, self.frames, size):
            yield self.array(start, min(start + size, self.frames))


def write_film(film: Film, path: str | Path, rate: int = 1) -> Path:
    """Writes the film as H.264, one film frame per video frame, `rate` of them a second."""
    frames = (film.frame(index) for index in range(film.frames))
    return write_frames(frames, path, rate, [index for index, _ in film.needles])


def write_frames(frames: Iterable[np.ndarray], path: str | Path, rate: int = 1, needles: Sequence[int] = ()) -> Path:
    """
    Writes frames, uint8 [H, W, 3] each, as H.264; an odd height or width gets one line more.

    A needle's frame is told to be a key frame: a single frame between two others is what an encoder saves on first.

    Args:
        rate: frames a second.
        needles: indices of the frames that show one.
    """
    import av

    path, marked, stream = Path(path), set(needles), None
    with av.open(str(path), "w") as out:
        for index, picture in enumerate(frames):
            if stream is None:
                stream = out.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "fast"})
                stream.height, stream.width = (side + side % 2 for side in picture.shape[:2])
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if index in marked:
                frame.pict_type = av.video.frame.PictureType.I
            out.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path}: a film has at least one frame, got none")
        out.mux(stream.encode())
    return path
