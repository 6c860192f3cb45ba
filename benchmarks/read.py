"""Seconds to read frames out of a long film: this package's ways beside decord as the authors use it.

``python -m benchmarks.read`` from the repository's root. Makes an H.264 film of 60 minutes, 640 x 360 (`--minutes 10
--size 1920x1080` for another), reads 256 and 1,024 of its frames by every way in turn, and again, in one process, with
one thread and with two, on as many cores: asked for one thread, decord still converts pictures in another, which would
be a core more than ours. Wall and processor seconds are the medians. All exact ways must give the same frames.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from videoxl.cli import integers
from videoxl.processing.video_reading_videoxl import read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling

from .films import RATE, write_long_film

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "read.json"
TABLE = "{:<22}{:>8}{:>9}{:>10}{:>10}{:>10}{:>12}"


def ours(path: str, count: int, threads: int, **sampling) -> np.ndarray:
    """uint8 [F, H, W, 3]."""
    with read_video(path, FrameSampling(num_frames=count, **sampling), num_threads=threads) as stream:
        frames = None
        for place, (_, frame) in enumerate(stream):
            if frames is None:
                frames = np.empty((len(stream), *frame.shape), np.uint8)
            frames[place] = frame
        return frames


def keyframes(path: str, count: int, threads: int) -> np.ndarray:
    return ours(path, count, threads, sampling="keyframes")


def with_decord(path: str, count: int, threads: int) -> np.ndarray:
    """As the authors read: one call of `get_batch` for all frames."""
    import decord

    video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
    return video.get_batch(np.linspace(0, len(video) - 1, count, dtype=int)).asnumpy()


WAYS: dict[str, Callable[[str, int, int], np.ndarray]] = {
    "exact": ours,
    "keyframes": keyframes,
    "decord": with_decord,
}


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Threads that begin inside share `count` cores, where the system can be told so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(path: str, count: int, threads: int, repeats: int) -> list[dict]:
    """A row for each way; the ways take turns."""
    wall, used, shown = ({way: [] for way in WAYS} for _ in range(3))
    for _ in range(repeats):
        results = {}
        for way, read in WAYS.items():
            with on_cores(threads):
                start, processor = time.perf_counter(), time.process_time()
                results[way] = read(path, count, threads)
                wall[way].append(time.perf_counter() - start)
                used[way].append(time.process_time() - processor)
            shown[way] = len(results[way])
        if not np.array_equal(results["exact"], results["decord"]):
            raise SystemExit(f"{count} frames: the exact ways give different frames")
    return [
        {
            "way": way,
            "frames": count,
            "threads": threads,
            "came": shown[way],
            "wall": wall[way],
            "processor": used[way],
        }
        for way in WAYS
    ]


def show(rows: list[dict]) -> None:
    """Prints the rows, each beside decord's."""
    print(TABLE.format("way", "frames", "threads", "wall s", "cpu s", "faster", "cpu less"))
    for row in rows:
        other = next(
            one for one in rows if one["way"] == "decord" and all(one[k] == row[k] for k in ("frames", "threads"))
        )
        wall, used, their_wall, their_used = (
            statistics.median(values) for one in (row, other) for values in (one["wall"], one["processor"])
        )
        ratios = (f"{their_wall / wall:.1f}x", f"{their_used / used:.1f}x")
        came = row["frames"] if row["came"] == row["frames"] else f"{row['came']} of {row['frames']}"
        print(TABLE.format(row["way"], came, row["threads"], f"{wall:.2f}", f"{used:.2f}", *ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--frames", type=integers, default=(256, 1024))
    parser.add_argument("--threads", type=integers, default=(1, 2))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--film", type=Path, help="where the film is kept (default: made anew in a temporary folder)")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        film = arguments.film or Path(folder) / "film.mp4"
        path = write_long_film(film, round(arguments.minutes * 60 * RATE), width, height)
        rows = [
            row
            for count in arguments.frames
            for threads in arguments.threads
            for row in measure(str(path), count, threads, arguments.repeats)
        ]
    show(rows)
    machine = {"processor": platform.machine(), "cores": os.cpu_count()}
    told = {"film": {"minutes": arguments.minutes, "size": arguments.size}, "machine": machine, "rows": rows}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
