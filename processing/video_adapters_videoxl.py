"""decord and torchcodec as decoders of the frames that the exact index names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BACKENDS = ("pyav", "decord", "torchcodec")


class BackendUnfitError(Exception):
    """The asked backend is not installed or does not show this file's frames; PyAV has to."""


def check_backend(name: str) -> None:
    """Raises ValueError for a name that is no backend."""
    if name not in BACKENDS:
        raise ValueError(f"video_backend={name!r} is unknown; supported are {', '.join(map(repr, BACKENDS))}.")


def open_backend(name: str, reader):
    """`reader` (a `PyAVReader`) with its frames decoded by another library.

    Raises:
        BackendUnfitError: not installed, cannot open the file, or its own table of frames differs from the index.
    """
    return DecordReader(reader) if name == "decord" else TorchCodecReader(reader)


class _IndexedElsewhere:
    """What both adapters share: sampling looks at PyAV's index, frames come by ordinal from another decoder."""

    def __init__(self, reader):
        self._reader = reader
        if reader.damage:
            raise BackendUnfitError("the file is damaged")
        if not reader.is_plain:
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
            self._video = decord.VideoReader(reader.path, num_threads=1)
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


class TorchCodecReader(_IndexedElsewhere):
    """Frames by torchcodec in its exact mode (the approximate one errs on variable frame rates)."""

    backend = "torchcodec"

    def __init__(self, reader):
        super().__init__(reader)
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendUnfitError("torchcodec is not installed, or cannot be loaded") from error
        try:
            self._video = VideoDecoder(reader.path, dimension_order="NHWC", seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise BackendUnfitError("torchcodec cannot open it") from error
        self._agree(len(self._video))

    def frames(self, indices: Sequence[int], allow_partial: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame uint8 [H, W, 3]) for ascending distinct indices."""
        for index in indices:
            yield int(index), self._video.get_frame_at(int(index)).data.numpy()

    def close(self) -> None:
        self._video = None
        self._reader.close()
