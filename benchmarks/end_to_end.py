"""From a file to the first word of an answer: what stages take, how they overlap, and by what memory grows.

``python -m benchmarks.end_to_end`` from the repository's root, with the small checkpoint that comes with the package.
For films of 1,000 and of 10,000 frames, each in a process of its own: peak resident size, seconds per frame of
decoding (the reading threads' processor time) and of vision, a line a + b x kept entries through the windows' seconds,
and wall time beside half of all processor seconds. Draws which stage worked when.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import numpy as np

from .films import write_long_film

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "end_to_end.json"
STAGES = ("read", "vision", "windows", "answer")
COLOURS = {"read": "#4c78a8", "vision": "#f58518", "windows": "#54a24b", "answer": "#b279a2"}


@dataclass
class Spans:
    """When which stage worked: (stage, thread, start, end, processor seconds, what it had to do with)."""

    rows: list[tuple[str, int, float, float, float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stage: str, start: float, processor: float, size: int) -> None:
        """A piece of work that ends now; `start` and `processor` were taken where it began."""
        row = (stage, threading.get_ident(), start, time.perf_counter(), time.thread_time() - processor, size)
        with self.lock:
            self.rows.append(row)

    def of(self, stage: str) -> list[tuple]:
        return [row for row in self.rows if row[0] == stage]


def watch(spans: Spans, pipe) -> None:
    """Notes when the pipeline's parts work."""
    from videoxl.processing.video_backends_videoxl import PyAVReader
    from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor

    read, resize = PyAVReader.frames, VideoXLVideoProcessor._resized
    inner = pipe.model.model
    encode, forward = inner._encode, inner.language_model.forward

    def frames(self, *args, **kwargs):
        taken = read(self, *args, **kwargs)
        while True:
            start, processor = time.perf_counter(), time.thread_time()
            item = next(taken, None)
            spans.add("read", start, processor, int(item is not None))
            if item is None:
                return
            yield item

    def timed(stage, call, size):
        @wraps(call)
        def run(*args, **kwargs):
            start, processor, amount = time.perf_counter(), time.thread_time(), size(*args, **kwargs)
            result = call(*args, **kwargs)
            spans.add(stage, start, processor, amount)
            return result

        return run

    PyAVReader.frames = frames
    VideoXLVideoProcessor._resized = timed("read", resize, lambda *_: 0)
    inner._encode = timed("vision", encode, lambda kind, pixels: len(pixels))
    inner.language_model.forward = timed("windows", forward, lambda embeds, segment, cache, **_: cache.physical_length)


def measure(path: str, ratio: int) -> dict:
    """One film in this process."""
    from transformers import pipeline

    from videoxl import TASK, tiny_checkpoint

    pipe = pipeline(TASK, model=str(tiny_checkpoint()))
    pipe(video=np.zeros((9, 64, 64, 3), np.uint8), question="?", do_sample_frames=False, max_new_tokens=1)
    spans = Spans()
    watch(spans, pipe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    told = pipe(
        video=path,
        question="What was shown?",
        do_sample_frames=False,
        compression_ratio=ratio,
        max_new_tokens=1,
        return_memory=True,
        return_seconds=True,
    )
    wall, used = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = told["memory"]["visual_tokens_seen"] // pipe.processor.tokens_per_frame
    return {
        "frames": frames,
        "peak_mb": peak / 1024,
        "peak_before_mb": before / 1024,
        "kept_mb": told["memory"]["bytes"] / 1e6,
        "wall": wall,
        "processor": used,
        "wall_of_half_processor": wall / (used / 2),
        "waited_for_frames": told["seconds"]["read"],
        "read_per_frame": sum(row[4] for row in spans.of("read")) / frames,
        "vision_per_frame": sum(row[3] - row[2] for row in spans.of("vision")) / frames,
        "windows": fit(spans),
        "spans": [(row[0], row[1], row[2] - start, row[3] - start) for row in spans.rows],
    }


def fit(spans: Spans) -> dict:
    """Seconds of a window as a + b x kept entries, over all full windows; a of the first and second half as well."""
    rows = [row for row in spans.of("windows") if row[5]][1:-1]
    kept, seconds = np.array([row[5] for row in rows], float), np.array([row[3] - row[2] for row in rows])

    def line(x, y):
        # Other work takes a core away now and then: the middle of neighbours is what the window itself takes.
        size = max(1, len(x) // 40)
        groups = [slice(at, at + size) for at in range(0, len(x) - size + 1, size)]
        x, y = (np.array([np.median(values[group]) for group in groups]) for values in (x, y))
        b, a = np.polyfit(x, y, 1)
        return {"a": a, "b": b, "r2": 1 - ((y - a - b * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()}

    return {"windows": len(rows), **line(kept, seconds)}


def draw(result: dict, path: Path, seconds: float = 3.0) -> None:
    """Which stage worked when, thread by thread, over the first `seconds`."""
    from matplotlib.figure import Figure

    spans = [span for span in result["spans"] if span[2] < seconds]
    lanes: dict[tuple[str, int], int] = {}
    for stage, thread, _, _ in sorted(spans, key=lambda span: STAGES.index(span[0])):
        lanes.setdefault((stage, thread), len(lanes))
    figure = Figure(figsize=(10, 0.6 * len(lanes) + 1), layout="constrained")
    axes = figure.add_subplot(title=f"{result['frames']} frames: the first {seconds:g} s")
    for stage, thread, start, end in spans:
        axes.barh(lanes[stage, thread], end - start, left=start, color=COLOURS[stage], height=0.8)
    names = [f"{stage} {place}" if stage == "read" else stage for place, (stage, _) in enumerate(lanes)]
    axes.set_yticks(range(len(lanes)), names)
    axes.set(xlabel="seconds", xlim=(0, seconds))
    axes.invert_yaxis()
    figure.savefig(path, dpi=90)


def in_child(path: Path, ratio: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.end_to_end", "--one", str(path), "--ratio", str(ratio)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--frames", default="1000,10000")
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--one", help="measure this film in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.ratio)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in map(int, arguments.frames.split(",")):
            path = write_long_film(Path(folder) / f"{frames}.mp4", frames, 160, 90)
            results.append(in_child(path, arguments.ratio))
    arguments.output.parent.mkdir(exist_ok=True)
    draw(results[0], arguments.output.with_suffix(".png"))
    for result in results:
        result.pop("spans")
        print(json.dumps(result, indent=1))
    machine = {"cores": os.cpu_count(), "ratio": arguments.ratio}
    arguments.output.write_text(json.dumps({"machine": machine, "films": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
