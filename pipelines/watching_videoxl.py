"""A video on its way through the model, watched: a progress bar, and the seconds that reading held it up."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers.utils import logging

PATIENCE = 2.0  # seconds before a bar appears
RHYTHM = 0.1  # seconds between two pictures of it


class Watched:
    """
    Prefills a model with videos, and keeps count.

    Args:
        read: seconds that opening took.

    Attributes:
        read: seconds that the model, or the thread that encodes frames for it, waited for frames.
        compressed: seconds that it worked on them; the caller's to add to.
    """

    def __init__(self, read: float):
        self.read, self.compressed = read, 0.0

    def prefill(self, model: Any, prefix_ids: torch.Tensor, video: Any, compression_ratio: Any) -> Any:
        """The cache of `model.prefill_video`, with a bar of frames where it takes a while.

        `transformers.utils.logging.disable_progress_bar()` turns the bar off.
        """
        with logging.tqdm(desc="Watching", unit="frame", delay=PATIENCE, mininterval=RHYTHM, leave=False) as bar:
            watched = _WatchedVideo(video, self, bar)
            return model.prefill_video(prefix_ids, watched, compression_ratio, watched.show_kept)


class _WatchedVideo:
    """A streamed video, or its pixel values, whose pieces are counted."""

    def __init__(self, video: Any, watched: Watched, bar: Any):
        self._video, self._watched, self._bar = video, watched, bar
        self._drawn_from = time.perf_counter() + PATIENCE

    @property
    def metadata(self) -> Any:
        """The streamed video's, which tells what is planned to be read; None for pixel values."""
        return getattr(self._video, "metadata", None)

    def split(self, count: int) -> Iterator[torch.Tensor]:
        pieces = iter(self._video.split(count))
        planned = self._video if self.metadata is None else self.metadata.frames_indices
        self._bar.total = None if planned is None else len(planned)
        try:
            while True:
                started = time.perf_counter()
                piece = next(pieces, None)
                self._watched.read += time.perf_counter() - started
                if piece is None:
                    return
                yield piece
                self._bar.update(len(piece))  # it was asked for the next one: this one is encoded
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def pixel_values(self, piece: torch.Tensor) -> torch.Tensor:
        make = getattr(self._video, "pixel_values", None)
        return piece if make is None else make(piece)

    def show_kept(self, cache: Any) -> None:
        """
        Writes behind the bar how many frames are read and how many entries the memory keeps.

        Frames are encoded ahead of the windows, often to their end: so the bar is drawn anew by each window, too.
        """
        read = getattr(self._video, "frames_read", None)
        told = {} if read is None else {"read": read}
        now = time.perf_counter()
        # Not by `summary`, which waits for windows that are under way.
        due = now >= self._drawn_from
        self._bar.set_postfix({**told, "kept": cache.physical_length}, refresh=due)
        if due:
            self._drawn_from = now + RHYTHM
