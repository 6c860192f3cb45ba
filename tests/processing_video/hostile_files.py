"""Makes hostile video files: `python hostile_files.py FOLDER`.

Of every file it is known what reading must end in: "right" (the frames that the plain decode of `truth` gives),
"error" (`VideoDecodeError`), or "either".
"""

from __future__ import annotations

import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from video_files import UNEVEN, cut_short, find_box, numbered_frame, set_matrix, write_audio, write_video


@dataclass
class Hostile:
    path: Path
    outcome: str
    truth: Path | None = None


def make_hostile_files(folder: Path) -> list[Hostile]:
    """Writes all files into `folder`."""
    folder = Path(folder)
    whole = _whole_files(folder)
    damaged = [*_cut(folder, whole), *_flipped(folder, whole), *_lying_headers(folder, whole)]
    return [*_no_videos(folder), *_odd_but_right(folder, whole), *damaged]


def _whole_files(folder: Path) -> dict[str, Path]:
    fast = {"movflags": "faststart"}
    made = {
        "mp4": write_video(folder / "whole.mp4", options={"bf": "2"}, container_options=fast),
        "moov_last": write_video(folder / "moov_last.mp4", options={"bf": "2"}),
        "mkv": write_video(folder / "whole.mkv", options={"bf": "2"}),
        "webm": write_video(folder / "whole.webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
        "avi": write_video(folder / "whole.avi", "mpeg4"),
        "ts": write_video(folder / "whole.ts", container="mpegts", options={"bf": "2"}),
        "gif": write_video(folder / "whole.gif", "gif", pixels="rgb8", rate=10),
        "av1": write_video(folder / "whole_av1.mp4", "libsvtav1", options={"preset": "12"}, container_options=fast),
    }
    return {name: Path(path) for name, path in made.items()}


def _no_videos(folder: Path) -> list[Hostile]:
    secret = folder / "secret.txt"
    secret.write_text("not to be read")
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"This is a letter, not a film.\n" * 50,
        "playlist.mp4": f"#EXTM3U\n#EXTINF:1,\nfile://{folder / 'whole.ts'}\n#EXT-X-ENDLIST\n".encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{folder / 'whole.mp4'}'\n".encode(),
        "random.mkv": random.Random(0).randbytes(50_000),
        "random_after_header.mkv": b"\x1a\x45\xdf\xa3" + random.Random(1).randbytes(50_000),
        "zeros.mp4": bytes(50_000),
        "only_header.mp4": struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(numbered_frame(3)).save(folder / "picture.mp4", format="PNG")
    write_audio(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    names = [*contents, "picture.mp4", "sound.mp4", "folder.mp4", "missing.mp4"]
    return [Hostile(folder / name, "error") for name in names]


def _odd_but_right(folder: Path, whole: dict[str, Path]) -> list[Hostile]:
    turned = write_video(folder / "turned.mp4", frames=10)
    set_matrix(turned, (0, 1, -1, 0))
    write_video(folder / "one_frame.mp4", frames=1)
    write_video(folder / "uneven.mkv", ticks=UNEVEN)
    write_video(folder / "8k.mp4", frames=2, size=(7680, 4320), options={"preset": "ultrafast"})
    _write_rgb(folder / "one_pixel.mov", width=1, height=1)
    _write_rgb(folder / "thin.mov", width=2, height=1000)
    _write_rgb(folder / "thread.mov", width=1, height=60_000)
    avi = bytearray(whole["avi"].read_bytes())
    place = avi.index(b"strh") + 40
    for lie in (1, 2**31):
        avi[place : place + 4] = struct.pack("<I", lie)
        (folder / f"count{lie}.avi").write_bytes(avi)
    right = ["one_frame.mp4", "uneven.mkv", "8k.mp4", "one_pixel.mov", "thin.mov", "turned.mp4"]
    right += ["count1.avi", f"count{2**31}.avi"]
    return [Hostile(folder / name, "right", folder / name) for name in right] + [
        Hostile(folder / "thread.mov", "error")  # harmless, but not with its shortest edge enlarged to 336
    ]


def _write_rgb(path: Path, width: int, height: int) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        for number in range(4):
            frame = np.full((height, width, 3), 60 * number, dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def _cut(folder: Path, whole: dict[str, Path]) -> list[Hostile]:
    made = []
    for kind, share in [
        ("mp4", 0.02),
        ("mp4", 0.3),
        ("mp4", 0.7),
        ("mp4", 0.98),
        ("moov_last", 0.6),
        ("av1", 0.6),
        ("mkv", 0.5),
        ("mkv", 0.9),
        ("webm", 0.6),
        ("avi", 0.6),
        ("ts", 0.6),
        ("gif", 0.6),
    ]:
        path = folder / f"cut_{kind}_{share}{whole[kind].suffix}"
        path.write_bytes(cut_short(whole[kind].read_bytes(), share))
        made.append(Hostile(path, "error"))
    return made


def _flipped(folder: Path, whole: dict[str, Path]) -> list[Hostile]:
    """Random bytes in the middle. Not in VP9, HEVC or GIF: their decoders cannot tell damage from content."""
    made = []
    for kind in ("mp4", "mkv", "avi", "ts", "av1"):
        data = whole[kind].read_bytes()
        for count in (8, 200):
            chance, damaged = random.Random(count), bytearray(data)
            for _ in range(count):
                damaged[chance.randrange(len(data) // 3, len(data) * 2 // 3)] = chance.randrange(256)
            path = folder / f"flipped_{kind}_{count}{whole[kind].suffix}"
            path.write_bytes(damaged)
            made.append(Hostile(path, "either", whole[kind]))
    return made


def _lying_headers(folder: Path, whole: dict[str, Path]) -> list[Hostile]:
    data = whole["mp4"].read_bytes()
    table = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
    huge = bytearray(data)
    sizes = find_box(data, *table, b"stsd")[0] + 16 + 32  # width and height of the first sample entry
    huge[sizes : sizes + 4] = b"\xff\xff\xff\xff"
    beyond = bytearray(data)
    chunks = find_box(data, *table, b"stco")[0] + 16
    beyond[chunks : chunks + 4] = struct.pack(">I", 2**31)
    codec = bytearray(data)
    entry = find_box(data, *table, b"stsd")[0] + 20
    codec[entry : entry + 4] = b"XXXX"
    counts = bytearray(data)
    sample_count = find_box(data, *table, b"stsz")[0] + 16
    counts[sample_count : sample_count + 4] = struct.pack(">I", 2**32 - 1)
    screen = bytearray(whole["gif"].read_bytes())
    screen[6:10] = b"\xff\xff\xff\xff"
    files = {"huge.mp4": huge, "beyond.mp4": beyond, "codec.mp4": codec, "counts.mp4": counts, "screen.gif": screen}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [
        Hostile(folder / "huge.mp4", "either", whole["mp4"]),
        Hostile(folder / "beyond.mp4", "error"),
        Hostile(folder / "codec.mp4", "error"),
        Hostile(folder / "counts.mp4", "either", whole["mp4"]),
        Hostile(folder / "screen.gif", "error"),
    ]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for hostile in make_hostile_files(target):
        print(f"{hostile.outcome:7} {hostile.path}")
