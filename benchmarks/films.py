"""Long H.264 films for measurements: a few minutes are encoded, and their packets repeated."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 30
GOP = 250
ENCODED = 3750  # frames that are really encoded, a whole number of groups


def moving_picture(index: int, width: int, height: int, still: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: a textured ground that slides, a bright block that crosses it, both without repetition."""
    frame = np.roll(still, (index // 2, index * 3), axis=(0, 1))
    side = height // 6
    row, column = (index * 2) % (height - side), (index * 5) % (width - side)
    frame = frame.copy()
    frame[row : row + side, column : column + side] = (index % 256, 255 - index % 256, 128)
    return frame


def write_long_film(path: Path, frames: int, width: int = 640, height: int = 360) -> Path:
    """
    Writes `frames` frames at 30 a second, a keyframe every 250, three B-frames between others (x264 veryfast).

    An existing film is used again.
    """
    if path.is_file():
        return path
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    still = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    still = still // 2 + rng.integers(0, 24, still.shape, dtype=np.uint8)
    part = path.with_name(path.stem + "_part" + path.suffix)
    options = {"preset": "veryfast", "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=3:open-gop=0"}
    with av.open(str(part), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(min(frames, ENCODED)):
            picture = moving_picture(index, width, height, still)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    _repeat(part, path, frames)
    part.unlink()
    return path


def _repeat(part: Path, path: Path, frames: int) -> None:
    """The packets of `part` again and again, until there are `frames`."""
    unfinished = path.with_name("unfinished_" + path.name)
    with av.open(str(part)) as old, av.open(str(unfinished), "w") as out:
        source = old.streams.video[0]
        stream = out.add_stream_from_template(source)
        packets = [packet for packet in old.demux(source) if packet.size]
        contents = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        length = round(len(contents) * Fraction(1, RATE) / source.time_base)
        for number in range(frames):
            turn, place = divmod(number, len(contents))
            data, pts, dts, is_keyframe = contents[place]
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, source.time_base, is_keyframe
            packet.pts, packet.dts = pts + turn * length, dts + turn * length
            out.mux(packet)
    unfinished.rename(path)
