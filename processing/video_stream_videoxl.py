"""The pixel values of a video, made while somebody asks for them: no more of it than a few frames is ever held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .video_index_videoxl import VideoDecodeError
from .video_reading_videoxl import ReadAgainError, VideoStream, VideoXLVideoMetadata
from .video_sources_videoxl import loaded_picture


class StreamedVideo:
    """One video as the model takes it in place of pixel values [F, 3, H, W]: read, resized and cropped in threads
    while the model works on the frames before, and normalised on the model's device.

    It is opened when something of it is asked for first. Every iteration reads it anew, and closes it.

    Args:
        open_video: opens the video: an iterable of (seconds, frame uint8 [3, H, W]) with `metadata`, and a context
            manager, as `VideoStream` is.
        levels: float32 [3, 256], the pixel value of each level of each channel.

    Attributes:
        frames_read: frames handed out by the running iteration, or by the last one.
    """

    def __init__(self, open_video: Callable[[], VideoStream], levels: np.ndarray):
        self._open_video, self._levels = open_video, torch.from_numpy(levels)
        self._opened: VideoStream | None = None
        self._metadata: VideoXLVideoMetadata | None = None
        self.frames_read = 0

    @property
    def metadata(self) -> VideoXLVideoMetadata:
        """What is planned to be read; once it was read, what came."""
        if self._metadata is None:
            self._opened = self._open_video()
            self._metadata = self._opened.metadata
        return self._metadata

    def __len__(self) -> int:
        """Frames.

        Raises:
            ValueError: of a generator that was not read yet.
        """
        if self.metadata.frames_indices is None:
            raise ValueError(
                "How many frames a generator gives is not known before they are read: pass list(generator), or "
                "prefill_video the stream first."
            )
        return len(self.metadata.frames_indices)

    def split(self, count: int) -> Iterator[torch.Tensor]:
        """uint8 [f, 3, H, W] of `count` frames each, the last with what is left, while reading goes on.

        Raises:
            VideoDecodeError: where reading fails; the frames before it have been handed out.
        """
        self.metadata  # noqa: B018 - opens it
        stream, self._opened = self._opened or self._open_video(), None
        try:
            yield from self._chunks(stream, count)
        except ReadAgainError:
            self._opened, self._metadata, stream = stream, stream.metadata, None  # it knows its frames now
            raise
        finally:
            if stream is not None:
                self._metadata = stream.metadata
                stream.close()

    def _chunks(self, stream: VideoStream, count: int) -> Iterator[torch.Tensor]:
        self.frames_read = 0
        chunk: list[np.ndarray] = []
        with contextlib.closing(iter(stream)) as frames:
            for _, frame in frames:
                self.frames_read += 1
                chunk.append(frame)
                if len(chunk) == count:
                    yield stack_frames(chunk)
                    chunk = []
        if chunk:
            yield stack_frames(chunk)

    def pixel_values(self, chunk: torch.Tensor) -> torch.Tensor:
        """uint8 [f, 3, H, W] to float32, on its device; equal to the processor's, bit for bit."""
        levels = self._levels.to(chunk.device, non_blocking=True)  # or the host would wait for the device
        indices = chunk.flatten(2).long()  # [f, 3, H * W]
        return levels.expand(len(chunk), -1, -1).gather(2, indices).view(chunk.shape)

    def close(self) -> None:
        """Closes a video that was opened, but not read."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        self.close()  # it is opened again where it goes
        return vars(self)


class GeneratorStream:
    """The frames of a generator, each taken when it is asked for: whole, and once.

    Args:
        frames: of PIL images or uint8 arrays [H, W, 3].
        transform: uint8 [H, W, 3] -> uint8 [3, h, w].
        rate: frames per second, if known; without it frame i has the time i seconds.

    Attributes:
        metadata: `frames_indices` is None until all were taken.
    """

    def __init__(self, frames: Iterator, transform: Callable[[np.ndarray], np.ndarray], rate: float | None = None):
        self._frames, self._transform, self._rate = frames, transform, rate or 1.0
        self.metadata = VideoXLVideoMetadata(
            total_num_frames=0, fps=self._rate, video_backend="generator", frames_indices=None, source="generator"
        )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        count = 0
        for picture in self._frames:
            frame = loaded_picture(picture, f"generator, frame {count}")
            if not count:
                self.metadata.height, self.metadata.width = frame.shape[:2]
            yield count / self._rate, self._transform(frame)
            count += 1
        if not count:
            raise VideoDecodeError(
                "generator: it holds no frames, or no more: it can be read once. Pass list(generator) to ask again."
            )
        self.metadata.total_num_frames, self.metadata.duration = count, count / self._rate
        self.metadata.frames_indices = list(range(count))
        self.metadata.frame_times = [index / self._rate for index in range(count)]

    def close(self) -> None:
        """Ends the generator."""
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> GeneratorStream:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def stack_frames(frames: list[np.ndarray]) -> torch.Tensor:
    """[f, 3, H, W] of frames [3, H, W].

    Raises:
        ValueError: if their sizes differ.
    """
    for frame in frames:
        check_same_size(frames[0], frame)
    return torch.from_numpy(np.stack(frames))


def check_same_size(first: np.ndarray, other: np.ndarray) -> None:
    """Raises ValueError where two frames [3, H, W] differ in size."""
    if first.shape != other.shape:
        raise ValueError(
            f"Frames of different sizes, {first.shape[1:]} and {other.shape[1:]}: leave do_resize and "
            "do_center_crop on."
        )
