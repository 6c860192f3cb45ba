"""Makes small video files whose frames carry their own number, with PyAV alone."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, BLOCK = 8, 20
WIDTH, HEIGHT = BITS * BLOCK, 96  # 160 x 96

X264_OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}
X265 = "log-level=none:keyint=12:min-keyint=12:bframes=3:scenecut=0"
FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}
#: Presentation times in milliseconds, unevenly spread.
UNEVEN = [40 * number + (number * 37 % 23) + (900 if number > 30 else 0) for number in range(60)]

FILMS = {
    "b_frames.mp4": {"options": {"bf": "3"}},
    "fragmented.mp4": {"options": {"bf": "2"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "one_keyframe.mp4": {"gop": 600},
    "late_start.mp4": {"ticks": [1740 + 40 * number for number in range(60)]},
    "with_sound.mp4": {"audio": True},
    "single_frame.mp4": {"frames": 1},
    "b_frames.mkv": {"options": {"bf": "3"}},
    "intra_refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
    "lossless.mkv": {"codec": "ffv1"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VP9},
    "vp9_hidden_frames.webm": {
        "codec": "libvpx-vp9",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"},
    },
    "vp8_hidden_frames.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"},
    },
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264_guessed_times.avi": {"options": {"bf": "2"}},
    "h264.mov": {"options": {"bf": "2"}},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "h264.ts": {"container": "mpegts", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "container": "mpegts", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "animated.gif": {"codec": "gif", "pixels": "rgb8", "rate": 10},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "hevc_open_gop.mp4": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}},
    "uneven.mp4": {"ticks": UNEVEN, "options": {"bf": "2"}},
    "uneven.mkv": {"ticks": UNEVEN, "options": {"bf": "2"}},
    "uneven.webm": {"codec": "libvpx-vp9", "ticks": UNEVEN, "options": FAST_VP9},
    "open_gop.mp4": {"options": X264_OPEN_GOP},
    "open_gop.mkv": {"options": X264_OPEN_GOP},
    "open_gop.ts": {"container": "mpegts", "options": X264_OPEN_GOP},
    "odd_size.mp4": {"size": (161, 97), "pixels": "yuv444p"},
    "odd_size.webm": {"codec": "libvpx-vp9", "size": (161, 97), "options": FAST_VP9},
    "no_times.h264": {"container": "h264", "options": {"bf": "2"}},
    "flash.flv": {"options": {"bf": "2"}},
    "windows.wmv": {"codec": "msmpeg4v2"},
}


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [H, W, 3]: upper half the number in binary as black and white blocks, lower half a moving gradient."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    block = width // BITS
    for bit in range(BITS):
        frame[: height // 2, bit * block : (bit + 1) * block] = 255 * (number >> bit & 1)
    ramp = (np.arange(width)[None] * 2 + np.arange(height - height // 2)[:, None] * 3 + 5 * number) % 256
    frame[height // 2 :] = np.stack([ramp, 255 - ramp, ramp // 2], axis=-1)
    return frame


def number_in(frame: np.ndarray) -> int:
    """The number burnt into a decoded frame uint8 [H, W, 3]."""
    height, width = frame.shape[:2]
    block = width // BITS
    rows = slice(height // 8, height * 3 // 8)
    middles = [frame[rows, bit * block + block // 4 : bit * block + block * 3 // 4].mean() for bit in range(BITS)]
    assert all(mean < 80 or mean > 175 for mean in middles), f"unreadable bar code {middles}"
    return sum(1 << bit for bit, mean in enumerate(middles) if mean > 127)


def write_video(
    path,
    codec: str = "libx264",
    frames: int = 60,
    rate: int = 25,
    container: str | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixels: str = "yuv420p",
    gop: int = 12,
    ticks=None,
    audio: bool = False,
    options: dict | None = None,
    container_options: dict | None = None,
) -> str:
    """
    Writes numbered frames; `ticks[i]` is the presentation time of frame i in milliseconds (default: even).

    With one thread and no random identifiers every machine writes the same bytes, which some tests damage.
    """
    width, height = size
    with av.open(
        str(path), "w", format=container, options={"fflags": "+bitexact", **(container_options or {})}
    ) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.codec_context.thread_count = 1
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        if ticks is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, width, height), format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
        if sound is not None:
            _mux_silence(out, sound, seconds=frames / rate)
    _leave_real_time()
    return str(path)


def _leave_real_time() -> None:
    """Run by root, libsvtav1 gives the calling thread real-time priority, and nothing else gets a core any more."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def cut_short(data: bytes, share: float) -> bytes:
    """
    The first `share` of a file, cut inside a packet of 188 bytes: an MPEG-TS that is cut between two of them is whole
    to every reader, and where exactly an encoder puts its bytes depends on the machine's cores.
    """
    return data[: int(len(data) * share) // 188 * 188 + 101]


def write_audio(path, seconds: float = 2.0) -> str:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as out:
        _mux_silence(out, out.add_stream("aac", rate=8000, layout="mono"), seconds)
    return str(path)


def _mux_silence(out, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        for packet in stream.encode(frame):
            out.mux(packet)
    for packet in stream.encode():
        out.mux(packet)


def decode_plainly(path) -> list[np.ndarray]:
    """Every frame in the order of display, by decoding the file from its start to its end."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def add_hidden_packet(source, target, after: int) -> str:
    """Copies an MPEG-4 film with one more packet after number `after`, coded as "nothing to show here"."""
    nothing = b"\0\0\1\xb6" + bytes([0b01010000, 0b01001111])  # a VOP with vop_coded = 0, 25 ticks a second
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            step, base = packet.duration, packet.time_base
            packet.pts = packet.dts = packet.pts + step * (number > after)
            packet.stream = stream
            place = packet.pts + step
            new.mux(packet)
            if number == after:
                hidden = av.Packet(nothing)
                hidden.stream, hidden.time_base, hidden.duration = stream, base, step
                hidden.pts = hidden.dts = place
                new.mux(hidden)
    return str(target)


def find_box(data: bytes, *path: bytes) -> tuple[int, int]:
    """Start and end of an mp4 box (its header included), by its path of names from the top."""
    start, end = 0, len(data)
    for depth, name in enumerate(path):
        position = start + (8 if depth else 0)
        while True:
            assert position + 8 <= end, f"no box {name!r}"
            length, kind = struct.unpack(">I4s", data[position : position + 8])
            if kind == name:
                start, end = position, position + length
                break
            position += length
    return start, end


def set_matrix(path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a display matrix (a, b, c, d; each -1, 0 or 1) into the track header of an mp4."""
    data = bytearray(Path(path).read_bytes())
    start, _ = find_box(bytes(data), b"moov", b"trak", b"tkhd")
    version = data[start + 8]
    place = start + 8 + (52 if version else 40)
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data)


def set_edit_list(path, media_start: int, milliseconds: int) -> None:
    """Makes an mp4 (its moov at the end) show `milliseconds` from `media_start` (in the track's time scale) on."""
    data = Path(path).read_bytes()
    movie, movie_end = find_box(data, b"moov")
    track, track_end = find_box(data, b"moov", b"trak")
    scale_at = find_box(data, b"moov", b"mvhd")[0] + 20
    duration = milliseconds * struct.unpack(">I", data[scale_at : scale_at + 4])[0] // 1000
    edit = struct.pack(">I4sIIIiHH", 28, b"elst", 0, 1, duration, media_start, 1, 0)
    edit = struct.pack(">I4s", 8 + len(edit), b"edts") + edit
    body = bytearray(data)
    try:
        old, old_end = find_box(data, b"moov", b"trak", b"edts")
    except AssertionError:
        old = old_end = find_box(data, b"moov", b"trak", b"tkhd")[1]
    body[old:old_end] = edit
    grown = len(edit) - (old_end - old)
    body[track : track + 4] = struct.pack(">I", track_end - track + grown)
    body[movie : movie + 4] = struct.pack(">I", movie_end - movie + grown)
    Path(path).write_bytes(body)
