"""The frames of video files, exact, with PyAV."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .video_frames_videoxl import upright
from .video_index_videoxl import PyAVFile, VideoDecodeError, pyav_errors

#: A part that a thread reads by itself holds at least this many wanted frames.
_PART_FRAMES = 8
#: To pass this many packets takes as long as to seek.
_SEEK_BEYOND = 10


class FrameIndexError(Exception):
    """A frame that the index of packets promises is never shown although nothing is damaged: the index is untrue."""


class PyAVReader(PyAVFile):
    """Fetches the frames that a `PyAVFile` knows, by index.

    A frame is fetched by seeking to the keyframe before it and decoding until its time appears; its time is verified.
    When it does not match, or anything goes wrong on the way, the file is decoded through from its start. Stretches
    that no wanted frame needs are not decoded: there the packets' word is taken. In files without an oddity
    (`is_plain`) frames that neither are wanted nor help to decode others are skipped, and where only keyframes are
    wanted nothing else is decoded.
    """

    _is_going_on = _keys_alone = False
    _converter = None
    _fit: Callable[[int, int], tuple[int, int]] | None = None

    def frames(self, indices: Sequence[int], allow_partial: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame uint8 [H, W, 3]) for ascending distinct indices.

        Args:
            allow_partial: frames that cannot be shown are left out instead of raising.

        Raises:
            VideoDecodeError: a wanted frame is damaged.
            FrameIndexError: the index is untrue; call `reindex` and plan anew.
        """
        indices = [int(index) for index in indices]
        fetch = self._start_fetching(indices)
        if self._keys_alone:
            done = 0
            for done, frame in enumerate(self._frames_of_keys(indices), 1):
                yield indices[done - 1], self._picture(frame)
            if done == len(indices):
                return
            indices, self._keys_alone = indices[done:], False
            self._open()
        for index in indices:
            frame = fetch(index)
            if frame is not None:
                yield int(index), self._picture(frame)
            elif not allow_partial:
                raise VideoDecodeError(
                    f"{self.path}: damaged at {self.times[index]:.3f} s (frame {index} of {len(self.times)}): it "
                    "cannot be shown. Pass allow_partial=True to read the frames that can be, or choose other times "
                    "with start= and end=."
                )

    def _start_fetching(self, indices: Sequence[int]) -> Callable[[int], Any]:
        """Gets ready for these frames, without opening the file anew where it can be gone on in; how to get one."""
        if not self._by_time:
            self._wanted, self._ordinal, self._keys_alone = None, -1, False
            self._open()
            return self._frame_at_ordinal
        wanted = {int(pts) for pts in self._pts[list(indices)]}
        keys_alone = self.is_plain and wanted <= set(self._keys.tolist())
        goes_on = self._is_going_on and keys_alone == self._keys_alone and self._has_ahead(min(wanted))
        self._keys_alone, self._is_going_on = keys_alone, True
        if not goes_on:
            self._open(threads=1 if keys_alone else None)  # for single pictures threads cost more than they gain
            self._sequential, self._passed = not self._may_seek, -1
        # Frames that nothing is predicted from stand between others: B-frames. Where there are none, none is skipped,
        # and a packet of which nothing is shown is noticed.
        skips = self.is_plain and not self._sequential and self._stream.codec_context.has_b_frames
        self._wanted = wanted if skips else None
        return self._frame_at_time

    def _has_ahead(self, target: int) -> bool:
        """Whether the frame shown at `target` can be reached without opening the file anew."""
        if self._container is None:
            return False
        return self._keys_alone or self._position is None or self._position < target

    def _picture(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        if self._fit is None:
            return upright(frame, self._rgb(frame))
        height, width = upright(frame, np.empty((frame.height, frame.width, 0))).shape[:2]
        fitting = self._fit(height, width)
        if (height, width) != (frame.height, frame.width):
            fitting = fitting[::-1]
        return upright(frame, self._rgb(frame, height=fitting[0], width=fitting[1], interpolation="BICUBIC"))

    def _rgb(self, frame: Any, **fitting: Any) -> np.ndarray:
        """uint8 [H, W, 3] as stored, by one converter for all frames: to set it up takes longer than to use it."""
        if self._converter is None:
            from av.video.reformatter import VideoReformatter

            self._converter = VideoReformatter()
        return self._converter.reformat(frame, format="rgb24", threads=1, **fitting).to_ndarray()

    def _frames_of_keys(self, indices: Sequence[int]) -> Iterator[Any]:
        """The frames of these keyframes' packets, of which alone the decoder is told; ends where others come out."""
        try:
            for index in indices:
                self._check_stop()
                frames = self._decoded_key(index)
                if len(frames) != 1 or frames[0].is_corrupt or frames[0].pts != self._pts[index]:
                    return
                yield frames[0]
        except pyav_errors():
            return

    def _decoded_key(self, index: int) -> list[Any]:
        """What the decoder makes of one keyframe's packet; it keeps nothing of it."""
        target = int(self._pts[index])
        if not 0 < index - self._passed <= _SEEK_BEYOND:
            self._container.seek(target, stream=self._stream, backward=True)
            self._packets = self._container.demux(self._stream)
        self._passed = index
        packet = self._packet_at(target)
        if packet is None or packet.is_corrupt:
            return []
        frames = [*self._stream.decode(packet), *self._stream.decode(None)]
        self._stream.codec_context.flush_buffers()  # it can go on after its end
        return frames

    def _packet_at(self, target: int) -> Any:
        """The next packet of which a frame is shown at `target`; None at the end of the file."""
        for packet in self._packets:
            self._check_stop()
            if packet.pts == target and packet.size:
                return packet
        return None

    def _frame_at_time(self, index: int) -> Any:
        target = int(self._pts[index])
        if not self._sequential:
            self._seek_for(target)
            frame, sound = self._advance_to(target)
            if frame is not None and sound and not self._trouble:
                return frame
            self._sequential, self._wanted = True, None
            self._open()
        frame, sound = self._advance_to(target)
        if frame is None and not self._trouble:
            raise FrameIndexError(f"{self.path}: no frame is shown at {self.times[index]:.3f} s.")
        return frame if sound else None

    def _seek_for(self, target: int) -> None:
        """Jumps to the keyframe before `target` if that lies ahead of what is decoded already."""
        key = int(np.searchsorted(self._keys, target, side="right")) - 1
        if key < 0 or (self._position is not None and self._keys[key] <= self._position):
            return
        if key == 0 and self._position is None:
            return
        try:
            self._container.seek(int(self._keys[key]), stream=self._stream, backward=True)
        except pyav_errors():
            self._trouble = True
            return
        self._packets = self._container.demux(self._stream)
        self._frames = self._decoded()
        self._held = self._position = None
        self._complete_from = int(self._keys[key])  # an open group's frames before it may be missing

    def _advance_to(self, target: int) -> tuple[Any, bool]:
        """Decodes up to the frame shown at exactly `target`; (None, False) if there is none."""
        while True:
            frame, sound = self._held or self._next_ascending()
            self._held = None
            if frame is None:
                return None, False
            if frame.pts == target:
                return frame, sound
            if frame.pts > target:
                self._held = (frame, sound)
                return None, False

    def _next_ascending(self) -> tuple[Any, bool]:
        """The next frame; (None, False) at the end, or where frames do not come as the index promises."""
        frame, sound = next(self._frames, (None, False))
        while frame is not None and not self._is_later(frame):
            if not self._trouble:
                return None, False
            frame, sound = next(self._frames, (None, False))
        if frame is not None:
            if not self._trouble and self._passes_over(frame):
                return None, False
            self._position = frame.pts
        return frame, sound

    def _passes_over(self, frame: Any) -> bool:
        """Whether the index knows frames between the last one and this one: packets of which nothing is shown."""
        if self._wanted is not None or self._position is None or self._position < self._complete_from:
            return False
        last, this = np.searchsorted(self._pts, (self._position, frame.pts))
        return this != last + 1

    def _is_later(self, frame: Any) -> bool:
        return frame.pts is not None and (self._position is None or frame.pts > self._position)

    def _frame_at_ordinal(self, index: int) -> Any:
        for frame, sound in self._frames:
            if sound:
                self._ordinal += 1
                if self._ordinal == index:
                    return frame
        return None

    def parts(self, indices: Sequence[int]) -> list[list[int]]:
        """`indices` in runs that can be read at the same time: no two of them lie behind the same keyframe."""
        indices = [int(index) for index in indices]
        if not (self._by_time and self._may_seek):
            return [indices]
        keys = np.searchsorted(self._keys, self._pts[indices], side="right")
        parts: list[list[int]] = [[]]
        for place, index in enumerate(indices):
            if len(parts[-1]) >= _PART_FRAMES and keys[place] != keys[place - 1]:
                parts.append([])
            parts[-1].append(index)
        return parts

    def clone(
        self,
        threads: int,
        stop: threading.Event | None = None,
        fit: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> PyAVReader:
        """Another reader of the file, with the same index, for another thread.

        Args:
            threads: of its decoder.
            stop: once it is set, reading raises `ReadingStoppedError`.
            fit: displayed height and width -> those that FFmpeg's swscale (bicubic) makes of them.
        """
        other = copy.copy(self)
        other.threads, other._stop, other._fit = threads, stop, fit
        other._container, other._is_going_on = None, False
        other._converter = None  # for one thread at a time
        return other
