"""decord and torchcodec as decoders of the frames that the exact index names."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .video_backends_videoxl import FrameIndexError
from .video_index_videoxl import VideoDecodeError
from .video_threads_videoxl import ReadingStoppedError

BACKENDS = ("pyav", "decord", "torchcodec")
#: Of damage in these codecs' pictures torchcodec tells as much as PyAV's strict decoders; in others, H.264 among them,
#: it shows guessed pictures in silence where PyAV raises.
_EQUALLY_STRICT = {"av1", "vp8", "vp9"}
#: Packets of these may show nothing, which changes the numbers of all frames behind; PyAV's reader finds out.
_MAY_SHOW_NOTHING = {"mpeg4"}


class BackendUnfitError(Exception):
    """The asked backend is not installed or does not show this file's frames; PyAV has to."""


def check_backend(name: str) -> None:
    """Raises ValueError for a name that is no backend."""
    if name not in BACKENDS:
        raise ValueError(f"video_backend={name!r} is unknown; supported are {', '.join(map(repr, BACKENDS))}.")


def open_backend(name: str, reader):
    """`reader` (a `PyAVReader`) with its frames decoded by another library.

    Raises:
        BackendUnfitError: decord is not installed; the library cannot open the file, or shows other frames.
        ImportError: torchcodec is not installed, or cannot be loaded.
    """
    return DecordReader(reader) if name == "decord" else TorchCodecReader(reader)


class _IndexedElsewhere:
    """What both adapters share: sampling looks at PyAV's index, frames come by ordinal from another decoder."""

    def __init__(self, reader):
        self._reader = reader
        if reader.damage:
            raise BackendUnfitError("the file is damaged")
        if not (reader.is_plain and reader.has_sound_keys):
            raise BackendUnfitError("only PyAV shows exactly its frames (open GOP, edit list or unsure index)")

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def parts(self, indices: Sequence[int]) -> list[list[int]]:
        """All in one: these decoders are entered at one place."""
        return [[int(index) for index in indices]]

    def clone(self, threads: int, stop=None, fit=None):
        """Itself: one thread reads."""
        return self

    def _agree(self, count: int) -> None:
        if count != len(self._reader.times):
            raise BackendUnfitError(f"it counts {count} frames, the index {len(self._reader.times)}")


class DecordReader(_IndexedElsewhere):
    """Frames by decord, for parity with older code."""

    backend = "decord"

    def __init__(self, reader):
        super().__init__(reader)
        try:
            import decord
        except (ImportError, OSError) as error:
            raise BackendUnfitError("decord is not installed, or cannot be loaded") from error
        try:
            self._video = decord.VideoReader(os.path.abspath(reader.path), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise BackendUnfitError("decord cannot open it") from error
        self._agree(len(self._video))

    def frames(self, indices: Sequence[int], allow_partial: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame uint8 [H, W, 3]) for ascending distinct indices."""
        for index in indices:
            yield int(index), self._video[int(index)].asnumpy()

    def close(self) -> None:
        self._video = None
        self._reader.close()


@functools.cache
def _torchcodec() -> Any:
    """The module `torchcodec.decoders`, or the error that loading it ends with."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:  # or it does not load
        return error
    return decoders


def loads_torchcodec() -> bool:
    """Whether torchcodec is installed and loads."""
    return not isinstance(_torchcodec(), Exception)


def prefers_torchcodec(reader) -> bool:
    """Whether `reader` (a `PyAVReader`) is of a file that torchcodec is to read where nobody asked for a backend."""
    return reader.codec in _EQUALLY_STRICT and loads_torchcodec()


class TorchCodecReader(_IndexedElsewhere):
    """Frames by torchcodec in its exact mode (the approximate one errs on variable frame rates).

    A few keyframes are compared when it is opened, the time of every frame when it comes; where torchcodec has no
    frame, or one of another time, PyAV goes on. Damage inside pictures it may cover up, see `_EQUALLY_STRICT`.
    """

    backend = "torchcodec"
    _stop: threading.Event | None = None
    _video = None
    _threads = 1

    def __init__(self, reader):
        if not loads_torchcodec():
            raise ImportError(
                "video_backend='torchcodec': torchcodec is not installed, or cannot be loaded "
                f"({_first_line(_torchcodec())}). `pip install torchcodec` installs it; it needs FFmpeg's shared "
                "libraries, and the torch that it was made for. Or leave video_backend out: PyAV reads then."
            )
        super().__init__(reader)
        if reader.codec in _MAY_SHOW_NOTHING:
            raise BackendUnfitError(f"which packets of {reader.codec} show nothing only PyAV finds out")
        try:
            self._open()
            self._agree(len(self._video))
            self._compare_keys()
        finally:
            self._video = None  # each thread opens its own

    def _open(self) -> None:
        path = os.path.abspath(self._reader.path)  # a bare name with a colon would be taken for an address
        try:
            self._video = _torchcodec().VideoDecoder(
                path, dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=self._threads
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise BackendUnfitError("torchcodec cannot open it") from error

    def _compare_keys(self) -> None:
        keys = self._reader.keys
        if not len(keys):
            raise BackendUnfitError("it has no keyframe to compare")
        some = sorted({int(keys[0]), int(keys[len(keys) // 2]), int(keys[-1])})
        ours = self._reader.clone(1)
        try:
            with contextlib.closing(ours.frames(some)) as frames:
                if not all(np.array_equal(self._frame(index), frame) for index, frame in frames):
                    raise BackendUnfitError("its pictures differ from PyAV's")
        except (VideoDecodeError, FrameIndexError) as error:
            raise BackendUnfitError("its keyframes are not what the index promises") from error
        finally:
            ours.close()

    def parts(self, indices: Sequence[int]) -> list[list[int]]:
        """As the index tells them: every thread's own decoder can be entered anywhere."""
        return self._reader.parts(indices)

    def clone(self, threads: int, stop: threading.Event | None = None, fit=None) -> TorchCodecReader:
        """Another decoder of the file, for another thread; see `PyAVReader.clone`. `fit` is not used."""
        other = TorchCodecReader.__new__(TorchCodecReader)
        other._reader, other._threads, other._stop = self._reader.clone(threads, stop), threads, stop
        return other

    def frames(self, indices: Sequence[int], allow_partial: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame uint8 [H, W, 3]) for ascending distinct indices, the last of them from PyAV if need be.

        Raises:
            VideoDecodeError, FrameIndexError: see `PyAVReader.frames`.
        """
        for place, index in enumerate(indices):
            if self._stop is not None and self._stop.is_set():
                raise ReadingStoppedError
            frame = self._frame(int(index))
            if frame is None:
                yield from self._reader.frames(indices[place:], allow_partial)
                return
            yield int(index), frame

    def _frame(self, index: int) -> np.ndarray | None:
        """uint8 [H, W, 3]; None where torchcodec has none for the time that the index tells."""
        try:
            if self._video is None:
                self._open()
            frame = self._video.get_frame_at(index)
        except (BackendUnfitError, RuntimeError, ValueError, LookupError):
            return None
        wanted = self._reader.start_time + self._reader.times[index]
        return frame.data.numpy() if abs(frame.pts_seconds - wanted) < 1e-4 else None

    def close(self) -> None:
        self._video = None
        self._reader.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
