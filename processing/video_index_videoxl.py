"""Which frames a video file shows, and when: an exact index, with PyAV."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .video_containers_videoxl import is_cut_short
from .video_frames_videoxl import ascending, has_leading_frames, starts_anew, upright, words_of_error
from .video_threads_videoxl import ReadingStoppedError

#: Frames with more pixels (and formats that FFmpeg would answer by opening other files or addresses) are refused.
MAX_FRAME_PIXELS = 8192 * 8192
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,gif,apng,flv,ogg,asf,ivf,obu,h264,hevc,m4v,nut,"
    "mxf,wtv,rm,dv,yuv4mpegpipe"
)
#: Containers whose seeking lands on the keyframe that was asked for; others are decoded from the start.
_SEEKABLE = {"mov", "matroska", "avi"}
#: Frames may be stored this many places away from their place of display (H.264, HEVC).
_REORDERING = 16
#: AVI stores no presentation times; for these codecs FFmpeg's guess is not in the order of display.
_GUESSED_IN_AVI = {"h264", "hevc"}
#: Between two packets of a sound Matroska file lie fewer bytes than these, when it holds one stream.
_HOLE_BYTES = 128
#: "explode" makes decoders report damage that they would otherwise conceal with guessed pictures.
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_FRAME_PIXELS)}


def pyav_errors() -> tuple[type[Exception], ...]:
    """FFmpeg's, and Python's own, which PyAV lets escape on damaged files (a stream that appears late: IndexError)."""
    from av.error import FFmpegError

    return (FFmpegError, OSError, ValueError, LookupError, ArithmeticError, RuntimeError)


class VideoDecodeError(ValueError):
    """A video that cannot be read: missing, no video, no frame, cut short, damaged, or absurdly large."""


@dataclass
class Damage:
    """Frames that cannot be shown after `time` (seconds) and before `until` (None: to the end), in words."""

    time: float
    text: str
    until: float | None = None


def _has_hole(last: Any, packet: Any) -> bool:
    """
    Whether bytes and time were passed over between two packets of a file with nothing but this stream: Matroska's
    reader looks for the next sound part behind a damaged one, and says nothing.
    """
    if None in (last.pos, packet.pos) or not last.duration:
        return False
    return packet.pts - last.pts > 1.5 * last.duration and packet.pos - last.pos - last.size > _HOLE_BYTES


class PyAVFile:
    """The frames of a video file that can be shown, by index, exactly.

    Opening reads every packet once and keeps the presentation times of those that are not marked to be discarded
    (edit lists). A file whose packets promise other frames than are shown is indexed by decoding it (`reindex`).

    Damage is what the container or the decoder reports in its strictest mode; frames after it count as damaged up to
    the next keyframe. Changed bytes inside VP9, HEVC and GIF pictures go unnoticed by any decoder.

    Attributes:
        times: seconds of every frame from the first one, float64 [n], ascending.
        rate: frames per second, float.
        duration: seconds up to the end of the last frame's display.
        size: (height, width) of the first frame as displayed, rotation metadata applied.
        damage: list of `Damage`, ascending.
        codec: FFmpeg's name for the kind of stream, such as "h264".
        has_sound_keys: whether each keyframe can be decoded without any packet before it, as far as is known.
        threads: of the decoder.

    Raises:
        VideoDecodeError: see there.
    """

    backend = "pyav"
    has_clock = True

    def __init__(self, path: str):
        self.path = path
        self.threads = min(4, os.cpu_count() or 1)
        self.damage: list[Damage] = []
        self._container = None
        self._wanted: set[int] | None = None
        self._stop: threading.Event | None = None
        self._check_file()
        try:
            self._open()
            self._index_packets()
            self._look_at_first_frame()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- opening

    def _check_file(self) -> None:
        if not os.path.exists(self.path):
            raise VideoDecodeError(f"{self.path}: no such file.")
        if not os.path.isfile(self.path):
            raise VideoDecodeError(f"{self.path}: not a regular file.")
        if os.path.getsize(self.path) == 0:
            raise VideoDecodeError(f"{self.path}: the file is empty (0 bytes).")

    def _open(self, threads: int | None = None) -> None:
        """(Re)opens the file at its start, with a fresh strict decoder; `threads` other than `self.threads`."""
        import av  # loads FFmpeg, which should wait for the first video

        self.close()
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PIXELS)}
        try:
            container = av.open("file:" + os.path.abspath(self.path), options=options, metadata_errors="replace")
        except pyav_errors() as error:
            raise VideoDecodeError(
                f"{self.path}: not a video file that can be read ({words_of_error(error)})."
                + (" It is cut short before its table of contents." if is_cut_short(self.path) else "")
            ) from error
        self._container = container
        self._stream = self._video_stream(container)
        context = self._stream.codec_context
        context.options = dict(_STRICT)
        # Slice threads would lose the decoder's error reports; frame threads keep them.
        context.thread_type = "FRAME"
        context.thread_count = threads or self.threads
        self._packets = container.demux(self._stream)
        self._frames = self._decoded()
        self._position, self._complete_from = None, -(2**63)
        self._trouble = False
        self._held = None

    def _video_stream(self, container):
        streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
        if not streams:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            raise VideoDecodeError(f"{self.path}: no video stream in it (it holds {', '.join(kinds)}).")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoDecodeError(f"{self.path}: there is no decoder for its video stream.")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_FRAME_PIXELS:
            raise VideoDecodeError(
                f"{self.path}: frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS} pixels are read."
            )
        return stream

    # --------------------------------------------------------------- indexing

    def _index_packets(self) -> None:
        """Frame times from the packets, without decoding; by decoding where packets do not tell."""
        stream = self._stream
        shown, keys, truthful, discarded, ended, last = [], [], True, 0, None, None
        sound = True
        holes, watched = [], "matroska" in self._container.format.name and len(self._container.streams) == 1
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except pyav_errors() as error:
                ended = words_of_error(error)
                break
            if packet is None:
                break
            if packet.size == 0 or packet.is_discard:
                discarded += packet.is_discard
                continue
            if packet.is_corrupt:
                ended = "incomplete packet"
                continue
            if packet.pts is None:
                truthful = False
                break
            if watched and last is not None and _has_hole(last, packet):
                holes.append((last.pts, packet.pts))
            shown.append(packet.pts)
            last = packet
            if packet.is_keyframe:
                keys.append(packet.pts)
                sound &= starts_anew(packet, stream.codec_context)
        pts = np.array(sorted(shown), dtype=np.int64)
        self._shows_last_for = 0.0 if last is None else float((last.duration or 0) * stream.time_base)
        self._keys = np.array(sorted(keys), dtype=np.int64)
        truthful &= not ("avi" in self._container.format.name and stream.codec_context.name in _GUESSED_IN_AVI)
        self.codec, self.has_sound_keys = stream.codec_context.codec.canonical_name, sound
        self._by_time = truthful and len(pts) == len(np.unique(pts))
        self._plain = not discarded and not has_leading_frames(shown, self._keys.tolist())
        self._may_seek = bool(_SEEKABLE & set(self._container.format.name.split(",")))
        if self._by_time:
            self._set_times(pts)
            self.damage += [self._damage_between(*np.searchsorted(pts, sorted(hole)).tolist()) for hole in holes]
            self._note_cut(ended, discarded, shown[-1])
        else:
            self.reindex()

    def reindex(self) -> None:
        """Indexes the file by decoding it through once: the frames that really are shown, whatever packets say."""
        self._by_time = False
        self.damage = []
        self._open()
        shown, damaged_after = [], []
        for frame, sound in self._frames:
            if sound:
                shown.append(np.nan if frame.pts is None else float(frame.pts))
            else:
                damaged_after.append(len(shown))
        if self._trouble and not damaged_after:
            damaged_after.append(len(shown))
        step = 1 / (self._header_rate() * float(self._stream.time_base))
        self._set_times(ascending(np.array(shown), step))
        self.damage = [self._damage_between(count - 1, count) for count in sorted(set(damaged_after))]
        self._note_cut(None)

    def _set_times(self, pts: np.ndarray) -> None:
        if len(pts) == 0:
            raise VideoDecodeError(f"{self.path}: its video stream holds no frame that can be shown.")
        self._pts, self._time_base = pts, float(self._stream.time_base)
        self.times = (pts - pts[0]) * self._time_base
        self.rate = self._true_rate()
        self.duration = float(self.times[-1]) + 1.0 / self.rate

    def _damage_between(self, before: int, after: int) -> Damage:
        """Damage between two neighbouring frames that can be shown."""
        until = float(self.times[after]) if after < len(self.times) else None
        if before < 0:
            return Damage(0.0, "damaged frames at the beginning", until)
        time = float(self.times[before])
        return Damage(time, f"damaged frames after {time:.3f} s", until)

    def _header_rate(self) -> float:
        return float(self._stream.average_rate or self._stream.guessed_rate or 0) or 25.0

    def _true_rate(self) -> float:
        """The header's rate where the frames' times bear it out (as the authors' reader takes it), else theirs."""
        declared = self._header_rate()
        span = float(self.times[-1])
        if len(self.times) < 2 or span <= 0:
            return declared
        measured = (len(self.times) - 1) / span
        return declared if abs(declared - measured) <= 0.01 * measured else measured

    def _holds_all(self, discarded: int) -> bool:
        """Whether all frames are there that the container's header promises (it may be cut behind them)."""
        name = self._container.format.name
        if "mov" in name or "avi" in name:
            return len(self.times) + discarded >= self._stream.frames > 0
        if "matroska" in name and self._container.duration:
            return self.duration >= self._container.duration / 1e6 - 0.5 / self.rate
        return False

    def _ends_early(self) -> bool:
        """Whether a Matroska file's tag promises more than came: its reader passes over damaged parts in silence."""
        told = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", self._stream.metadata.get("DURATION", ""))
        if told is None or not self._by_time:
            return False
        hours, minutes, seconds = map(float, told.groups())
        came = float(self._pts[-1] * self._stream.time_base) + self._shows_last_for
        return 3600 * hours + 60 * minutes + seconds - came > 3 / self.rate

    def _note_cut(self, ended: str | None, discarded: int = 0, last: int | None = None) -> None:
        """Adds damage at the end if the file stops before its last frame; `last`: time of the last packet in it."""
        declared = self._stream.frames
        if ended is None and self._ends_early():
            ended = "the file is damaged"
        elif ended is None:
            if not is_cut_short(self.path) or self._holds_all(discarded):
                return
            ended = "the file is cut short"
            # What lies at the cut is incomplete, which decoders do not always notice.
            self._set_times(self._pts[self._pts != (self._pts[-1] if last is None else last)])
        missing = f" of {declared}" if declared > len(self.times) else ""
        first_missing = float(self.times[max(0, len(self.times) - _REORDERING)])
        text = f"{ended} after frame {len(self.times)}{missing} ({self.duration:.3f} s)"
        self.damage.append(Damage(first_missing, text))

    def _look_at_first_frame(self) -> None:
        """The displayed size; and whether what the packets promise first is what is shown first."""
        first = self._first_frame()
        if self._by_time and (first is None or first.pts != self._pts[0]):
            self.reindex()
            first = self._first_frame()
        if first is None:
            raise VideoDecodeError(f"{self.path}: none of its frames can be decoded; the file is damaged.")
        image = upright(first, np.empty((first.height, first.width, 0)))
        self.size = image.shape[:2]
        self.close()

    def _first_frame(self):
        self._open()
        return next((frame for frame, sound in self._frames if sound), None)

    # --------------------------------------------------------------- decoding

    def _decoded(self) -> Iterator[tuple[Any, bool]]:
        """Frames from the demuxer's position on, with whether nothing they depend on was damaged.

        After damage frames are unsound until the next keyframe. `_trouble` remembers that there was damage.
        """
        sound = True
        context = self._stream.codec_context
        while True:
            self._check_stop()
            try:
                packet = next(self._packets, None)
            except pyav_errors():
                self._trouble, packet = True, None
            if packet is not None and packet.size == 0:  # would end the decoder
                continue
            if packet is not None and self._wanted is not None:
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted else "NONREF"
            try:
                frames = self._stream.decode(packet)  # None: what is still inside the decoder
            except pyav_errors():
                self._trouble, sound, frames = True, False, []
            if packet is not None and packet.is_corrupt:
                self._trouble, sound = True, False
            for frame in frames:
                if frame.key_frame:
                    sound = True
                if frame.is_corrupt:
                    self._trouble, sound = True, False
                yield frame, sound
            if packet is None:
                return

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise ReadingStoppedError

    @property
    def keys(self) -> np.ndarray:
        """Indices of the keyframes, int64, ascending; empty where packets do not tell them."""
        return np.flatnonzero(np.isin(self._pts, self._keys)) if self._by_time else np.empty(0, np.int64)

    @property
    def start_time(self) -> float:
        """Seconds of the first frame on the container's own clock."""
        return float(self._pts[0]) * self._time_base

    @property
    def is_plain(self) -> bool:
        """No edit list, no open GOP, no doubt about the index: other libraries can be expected to agree."""
        return self._by_time and self._may_seek and self._plain

    def close(self) -> None:
        """Closes the file; the reader opens it again when frames are asked for."""
        if self._container is not None:
            self._container.close()
            self._container = None
