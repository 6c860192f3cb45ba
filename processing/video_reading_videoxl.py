"""Reads videos of any kind frame by frame: `read_video`."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from transformers.utils import logging
from transformers.video_utils import VideoMetadata

from .video_adapters_videoxl import BackendUnfitError, check_backend, open_backend, prefers_torchcodec
from .video_backends_videoxl import FrameIndexError, PyAVReader
from .video_index_videoxl import VideoDecodeError
from .video_sampling_videoxl import FrameSampling, check_positive_int
from .video_sources_videoxl import PictureReader, checked_video_array, downloaded, folder_pictures
from .video_threads_videoxl import frames_ahead

__all__ = ["VideoDecodeError", "VideoStream", "VideoXLVideoMetadata", "read_video"]

logger = logging.get_logger(__name__)


@dataclass
class VideoXLVideoMetadata(VideoMetadata):
    """transformers' metadata (total_num_frames, fps, width, height, duration, video_backend, frames_indices) with the
    sampled frames' own times, which a variable frame rate does not give away, the source's name, and how the frames
    were sampled, "uniform" or "keyframes"."""

    frame_times: list[float] = field(default_factory=list)
    source: str | None = None
    sampling: str = "uniform"

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the sampled frames, counted from the first frame that can be shown."""
        return list(self.frame_times)


class ReadAgainError(VideoDecodeError):
    """The plan of frames turned out wrong while frames had been handed out; a second iteration is right."""

    read_again = True


class VideoStream:
    """The sampled frames of one video, decoded while iterating.

    Iterating gives (seconds, frame uint8 [H, W, 3]) in order; threads decode a few frames ahead. Iterating again
    reads again. A context manager; leaving it (also by an exception or Ctrl-C) closes the file.

    Attributes:
        metadata: `VideoXLVideoMetadata`. Planned when opened; with `allow_partial=True` its `frames_indices` and
            `frame_times` are cut down to the frames that came once an iteration has ended.
    """

    def __init__(
        self,
        reader,
        sampling: FrameSampling,
        allow_partial: bool = False,
        transform=None,
        on_close=None,
        threads: int = 1,
        fit=None,
    ):
        self._reader = reader
        self._threads, self._fit = threads, fit
        self._sampling = sampling
        self._allow_partial = allow_partial
        self._transform = transform or (lambda frame: frame)
        self._on_close = on_close or contextlib.ExitStack()
        self._plan()

    def _plan(self) -> None:
        reader = self._reader
        self._check_damage()
        indices, sampling = self._sampling.indices(reader.times, reader.rate, reader.duration), "uniform"
        if self._sampling.sampling == "keyframes":
            indices, sampling = self._nearest_keys(indices)
        height, width = reader.size
        self.metadata = VideoXLVideoMetadata(
            total_num_frames=len(reader.times),
            fps=reader.rate,
            width=width,
            height=height,
            duration=reader.duration,
            video_backend=reader.backend,
            frames_indices=[int(i) for i in indices],
            frame_times=[float(reader.times[i]) for i in indices],
            source=reader.path,
            sampling=sampling,
        )

    def _nearest_keys(self, indices: np.ndarray) -> tuple[np.ndarray, str]:
        """The keyframes nearest in time to these frames, each once; the frames themselves where none is known."""
        if not len(self._reader.keys):
            logger.warning(f"{self._reader.path}: does not tell its keyframes: sampling='uniform' is used.")
            return indices, "uniform"
        return self._sampling.nearest(
            indices, self._reader.keys, self._reader.times, self._reader.duration
        ), "keyframes"

    def select(self, indices) -> None:
        """Reads these frames (ascending indices of frames that can be shown) instead of the planned ones."""
        total = self.metadata.total_num_frames
        chosen = [int(index) for index in indices]
        if chosen != sorted(chosen) or not chosen or not 0 <= chosen[0] <= chosen[-1] < total:
            raise ValueError(f"Frame indices must ascend within 0..{total - 1}, got {chosen}.")
        self.metadata.frames_indices = chosen
        self.metadata.frame_times = [float(self._reader.times[index]) for index in chosen]

    def _check_damage(self) -> None:
        start, end = self._sampling.start, self._sampling.end
        hit = [
            damage
            for damage in self._reader.damage
            if (end is None or damage.time < end) and (start is None or damage.until is None or damage.until > start)
        ]
        if not hit:
            return
        text = f"{self._reader.path}: {hit[0].text}"
        if not self._allow_partial:
            before = f", or end={hit[0].time:.3f} to stay before the damage" if hit[0].time > 0 else ""
            raise VideoDecodeError(
                f"{text}. {len(self._reader.times)} frames, up to {self._reader.times[-1]:.3f} s, can be read: pass "
                f"allow_partial=True to read those{before}."
            )
        logger.warning(f"{text}: reading the {len(self._reader.times)} frames that can be read.")

    def __len__(self) -> int:
        """Number of planned frames."""
        return len(self.metadata.frames_indices)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        self._handed_out = 0
        try:
            yield from self._read_planned(0)
        except FrameIndexError:
            yield from self._read_replanned()

    def _read_planned(self, skip: int) -> Iterator[tuple[float, np.ndarray]]:
        planned = self.metadata.frames_indices
        repeats = {index: len(list(group)) for index, group in itertools.groupby(planned[skip:])}
        came = planned[:skip]
        frames = frames_ahead(
            self._reader, list(repeats), self._allow_partial, self._transform, self._threads, self._fit
        )
        with contextlib.closing(frames):
            for index, frame in frames:
                for _ in range(repeats[index]):
                    came.append(index)
                    self._handed_out = len(came)
                    yield float(self._reader.times[index]), frame
        self._note_missing(came)

    def _read_replanned(self) -> Iterator[tuple[float, np.ndarray]]:
        """After an untrue index: plan anew from the frames that are shown, and go on if nothing else is different."""
        handed_out, before = self._handed_out, self.metadata.frame_times
        self._reader.reindex()
        self._plan()
        if self.metadata.frame_times[:handed_out] != before[:handed_out]:
            raise ReadAgainError(
                f"{self._reader.path}: its packets promise other frames than are shown, found out after {handed_out} "
                "frames had been handed out. Read it again: the frames are known now."
            )
        yield from self._read_planned(handed_out)

    def _note_missing(self, came: list[int]) -> None:
        lost = len(self.metadata.frames_indices) - len(came)
        if not came:
            raise VideoDecodeError(f"{self._reader.path}: none of the wanted frames can be shown.")
        if lost:
            logger.warning(f"{self._reader.path}: {lost} of {lost + len(came)} wanted frames are damaged: left out.")
            self.metadata.frames_indices = came
            self.metadata.frame_times = [float(self._reader.times[i]) for i in came]

    def close(self) -> None:
        """Closes the file (and removes a downloaded one)."""
        self._reader.close()
        self._on_close.close()

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_video(
    video,
    sampling: FrameSampling | None = None,
    *,
    video_backend: str | None = None,
    allow_partial: bool = False,
    allow_url: bool = False,
    frame_rate: float | None = None,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    num_threads: int | None = None,
    fit: Callable[[int, int], tuple[int, int]] | None = None,
) -> VideoStream:
    """Opens a video and plans which of its frames to read.

    Args:
        video: path of a video file (mp4, mov, mkv, webm, avi, ts, gif, ...) or of a folder of pictures; an http(s)
            address; a list of PIL images, picture paths or uint8 arrays [H, W, 3]; a uint8 array [F, H, W, 3].
        sampling: which frames; default 1 per second, at most 256.
        video_backend: "pyav", "decord" or "torchcodec"; the latter two give way to PyAV, with a log line, where they
            do not show the file's frames exactly, or decord is missing; damage inside pictures, of H.264 for one,
            they may cover up, where PyAV raises. By default torchcodec where it is installed and loads, agrees with
            the index of packets and with PyAV's pictures, and tells of damage as well (AV1, VP8, VP9); else PyAV.
        allow_partial: of a damaged file read what can be read instead of raising.
        allow_url: addresses are downloaded; without it they are refused.
        frame_rate: frames per second of pictures or arrays, which have no times of their own.
        transform: applied to every decoded frame, uint8 [H, W, 3] -> anything; called in the reading threads.
        num_threads: that read and decode; default: the cores, at most 4.
        fit: displayed height and width -> those that swscale (bicubic) makes of a file's frames while it turns them
            into RGB. Faster than PIL, and not the same: see `VideoXLVideoProcessor`.

    Raises:
        VideoDecodeError: the video cannot be read, or (without `allow_partial`) not whole.
        ValueError: an argument that cannot be meant.
        ImportError: "torchcodec" was asked for, and is not installed or cannot be loaded.
    """
    sampling = sampling or FrameSampling()
    check_backend(video_backend or "pyav")
    check_positive_int("num_threads", num_threads)
    threads = num_threads or min(4, os.cpu_count() or 1)
    on_close = contextlib.ExitStack()
    try:
        reader = _reader_for(video, allow_url, frame_rate, on_close)
        on_close.callback(reader.close)
        _check_clock(reader, sampling)
        if isinstance(reader, PyAVReader):
            # The rest only PyAV does: keyframes alone, what is left of damaged files, FFmpeg's resizing.
            suits = sampling.sampling == "uniform" and not allow_partial and fit is None
            reader = _with_backend(video_backend, reader, suits)
        return VideoStream(reader, sampling, allow_partial, transform, on_close, threads, fit)
    except BaseException:
        on_close.close()
        raise


def _reader_for(video, allow_url: bool, frame_rate: float | None, on_close: contextlib.ExitStack):
    if isinstance(video, (str, os.PathLike)):
        return _reader_for_name(os.fspath(video), allow_url, frame_rate, on_close)
    if isinstance(video, (list, tuple)):
        known = (str, os.PathLike, Image.Image, np.ndarray)
        if any(not isinstance(frame, known) and not hasattr(frame, "detach") for frame in video):
            raise ValueError("A video as a list holds PIL images, picture paths or uint8 arrays [H, W, 3].")
        return PictureReader(video, f"list of {len(video)} pictures", frame_rate)
    if isinstance(video, np.ndarray) or hasattr(video, "detach"):
        array = checked_video_array(video, "video array")
        return PictureReader(array, f"array {list(array.shape)}", frame_rate)
    raise ValueError(
        f"A video is a path, an address, a list of PIL images or an array [F, H, W, 3], not {type(video).__name__}."
    )


def _reader_for_name(name: str, allow_url: bool, frame_rate: float | None, on_close: contextlib.ExitStack):
    scheme = name.split("://", 1)[0].lower() if "://" in name else None
    if scheme is not None and not os.path.exists(name):
        if scheme not in ("http", "https"):
            raise VideoDecodeError(f"{name}: addresses of kind {scheme}:// are not read, only http(s):// and paths.")
        if not allow_url:
            raise VideoDecodeError(f"{name}: pass allow_url=True to download videos from addresses.")
        return PyAVReader(on_close.enter_context(downloaded(name)))
    if os.path.isdir(name):
        return PictureReader(folder_pictures(name), name, frame_rate)
    return PyAVReader(name)


def _check_clock(reader, sampling: FrameSampling) -> None:
    if sampling.needs_clock and not reader.has_clock:
        raise ValueError(
            f"{reader.path}: `fps`, `start` and `end` need times, which pictures do not have: pass "
            "video_metadata={'fps': ...}, or num_frames."
        )


def _with_backend(name: str | None, reader: PyAVReader, suits_torchcodec: bool):
    """The reader of the asked backend, or where none is, of torchcodec if the file and the request suit it."""
    if name == "pyav" or (name is None and not (suits_torchcodec and prefers_torchcodec(reader))):
        return reader
    try:
        return open_backend(name or "torchcodec", reader)
    except BackendUnfitError as error:
        if name is not None:
            logger.warning(f"video_backend={name!r} is not used for {reader.path} ({error}): reading with 'pyav'.")
        return reader
