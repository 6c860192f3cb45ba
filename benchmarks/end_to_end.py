"""From a file to the first word of an answer: what stages take, how they overlap, and by what memory grows.

``python -m benchmarks.end_to_end`` from the repository's root, with the small checkpoint that comes with the package,
for films of 1,000 and of 10,000 frames. Each is read in processes of its own, and a short film before it, so that
first uses do not count:

- `stages`, on one core: what stages take, in processor time of the thread that works, which other work touches least.
  Seconds per frame of reading (decoding, resizing, cropping) and of vision, and a line a + b x kept entries through
  the seconds of all full windows. The films are read in turn, three times (a shorter one each time as often as makes
  as many frames): a machine that is slower for minutes is so for all of them. For the line a window's seconds are the
  least of the readings: what else a machine does only ever adds to them. Its points are means of 16 neighbouring
  windows, which go with 9 chunks of 16 frames: on one core a window right behind a chunk takes longer than others, as
  the chunk took its place in the caches. a of the first and of the second half goes with the whole's b.
- `whole`, as users run it, in several processes one after the other, of which that with the middle wall time for its
  processor seconds is told, and the others' quotients with it: peak resident size, and wall time beside half of all
  processor seconds, beside half of those that fell into stages, and beside half of what stages took on one core. Draws
  which stage worked when.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import numpy as np

from videoxl.cli import integers

from .films import write_long_film

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "end_to_end.json"
STAGES = ("read", "vision", "windows", "rest")  # the rest: passes over text, and over windows that are not full
COLOURS = {"read": "#4c78a8", "vision": "#f58518", "windows": "#54a24b", "rest": "#b279a2"}
WARM_UP = 300  # frames, of two groups of pictures, so that two threads read
SIZE = 160, 90
CYCLE = 16  # windows of the small checkpoint, after which windows and chunks of frames begin together again
TURNS = 3  # of reading all films for what stages take
WHOLE = 3  # processes that read a film as users do


@dataclass
class Spans:
    """When which stage worked: (stage, thread, start, end, processor seconds, what it had to do with)."""

    rows: list[tuple[str, int, float, float, float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: threading.local = field(default_factory=threading.local)

    def run(self, stage: str, size: int, call, *args, **kwargs):
        """`call` as a piece of work; what of its seconds belongs to a piece of work inside it is told there alone."""
        outer, self.inside.seconds = getattr(self.inside, "seconds", 0.0), 0.0
        start, processor = time.perf_counter(), time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            used, end = time.thread_time() - processor, time.perf_counter()
            row = (stage, threading.get_ident(), start, end, used - self.inside.seconds, size)
            self.inside.seconds = outer + used
            with self.lock:
                self.rows.append(row)

    def of(self, stage: str) -> list[tuple]:
        return [row for row in self.rows if row[0] == stage]

    def processor(self, stage: str) -> float:
        return sum(row[4] for row in self.of(stage))


def watch(spans: Spans, pipe, whole_windows: bool) -> None:
    """Notes when the pipeline's parts work; of windows also halves of the layers, which may work side by side."""
    from videoxl.processing.video_backends_videoxl import PyAVReader
    from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
    from videoxl.processing.video_stream_videoxl import StreamedVideo

    read, inner = PyAVReader.frames, pipe.model.model
    window = inner.config.text_config.beacon_window

    def frames(self, *args, **kwargs):
        taken = read(self, *args, **kwargs)
        while (item := spans.run("read", 1, next, taken, None)) is not None:
            yield item

    def note(owner, name, told):
        call = getattr(owner, name)

        @wraps(call)
        def run(*args, **kwargs):
            return spans.run(*told(*args, **kwargs), call, *args, **kwargs)

        setattr(owner, name, run)

    def of_pass(*args, **named):
        segment, cache = (named["segment"], named["cache"]) if "cache" in named else args[1:3]
        return "windows" if segment.visual and segment.length == window else "rest", cache.physical_length

    PyAVReader.frames = frames
    note(VideoXLVideoProcessor, "_resized", lambda *_: ("read", 0))
    note(StreamedVideo, "pixel_values", lambda *_: ("vision", 0))
    note(inner, "_encode", lambda kind, pixels: ("vision", len(pixels)))
    note(inner.language_model, "forward", of_pass)
    if not whole_windows:
        note(inner.language_model, "_through", of_pass)


def warm_pipeline(warm_up: str, ratio: int):
    """The pipeline as a function of a film's path, after a short film."""
    from videoxl.cli import load_pipeline

    pipe = load_pipeline(None)  # as `videoxl ask` has it, with torch on one thread

    def ask(path: str) -> dict:
        return pipe(
            video=path,
            question="What was shown?",
            do_sample_frames=False,
            compression_ratio=ratio,
            max_new_tokens=1,
            return_memory=True,
            return_seconds=True,
        )

    ask(warm_up)
    return pipe, ask


def measure_stages(path: str, warm_up: str, ratio: int, readings: int) -> dict:
    """What the stages take of one film in this process, on one core: there they work one after the other; one turn."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pipe, ask = warm_pipeline(warm_up, ratio)
    spans = Spans()
    watch(spans, pipe, whole_windows=True)
    for _ in range(readings):
        ask(path)
    kept, seconds = least(spans.of("windows"), readings)
    return {
        "readings": readings,
        "stages": {stage: spans.processor(stage) / readings for stage in STAGES},
        "windows": [kept.tolist(), seconds.tolist()],
    }


def of_turns(turns: Sequence[dict], frames: int) -> dict:
    """What the stages take of one film, by all turns."""
    stages = {stage: sum(turn["stages"][stage] for turn in turns) / len(turns) for stage in STAGES}
    kept, seconds = (np.array([turn["windows"][part] for turn in turns]) for part in (0, 1))
    return {
        "readings": sum(turn["readings"] for turn in turns),
        "stages": stages,
        "read_per_frame": stages["read"] / frames,
        "vision_per_frame": stages["vision"] / frames,
        "windows": fit(kept[0], seconds.min(axis=0)),
    }


def measure_whole(path: str, warm_up: str, ratio: int) -> dict:
    """Memory and wall time of one film in this process, and when which stage worked."""
    pipe, ask = warm_pipeline(warm_up, ratio)
    spans = Spans()
    watch(spans, pipe, whole_windows=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    told = ask(path)
    wall, used = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "frames": told["memory"]["visual_tokens_seen"] // pipe.processor.tokens_per_frame,
        "peak_mb": peak / 1024,
        "peak_before_mb": before / 1024,
        "kept_mb": told["memory"]["bytes"] / 1e6,
        "wall": wall,
        "processor": used,
        "wall_of_half_processor": wall / (used / 2),
        "in_stages": {stage: spans.processor(stage) for stage in STAGES},
        "wall_of_half_in_stages": wall / (sum(map(spans.processor, STAGES)) / 2),
        "waited_for_frames": told["seconds"]["read"],
        # a pass that mostly waited, for the half of it in another thread, would look like work
        "spans": [(*row[:2], row[2] - start, row[3] - start) for row in spans.rows if 4 * row[4] > row[3] - row[2]],
    }


def least(rows: Sequence[tuple], readings: int) -> tuple[np.ndarray, np.ndarray]:
    """
    By window, entries kept before it and the least seconds of any reading, [windows] each.

    Args:
        rows: of `Spans`, the full windows of all readings, reading by reading.
    """
    kept, seconds = (np.array([row[at] for row in rows], float).reshape(readings, -1) for at in (5, 4))
    return kept[0], seconds.min(axis=0)


def fit(kept: np.ndarray, seconds: np.ndarray) -> dict:
    """Seconds of a window as a + b x kept entries; both [windows]."""
    size = CYCLE if len(kept) >= 4 * CYCLE else 1
    groups = [slice(at, at + size) for at in range(0, len(kept) - size + 1, size)]
    x, y = (np.array([values[group].mean() for group in groups]) for values in (kept, seconds))
    b, a = np.polyfit(x, y, 1)
    first, second = (float(half.mean()) for half in np.array_split(y - b * x, 2))
    r2 = 1 - ((y - a - b * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {
        "windows": len(kept),
        "points": len(x),
        "a": a,
        "b": b,
        "r2": r2,
        "a_first_half": first,
        "a_second_half": second,
    }


def compared(results: Sequence[dict]) -> dict:
    """What is to be alike between the films: how far apart they are, as megabytes or the largest of the smallest."""

    def ratio(values) -> float:
        return max(values) / min(values)

    peaks = [result["peak_mb"] for result in results]
    halves = ("a_first_half", "a_second_half")
    return {
        "peak_mb_difference": max(peaks) - min(peaks),
        "read_per_frame": ratio([result["read_per_frame"] for result in results]),
        "vision_per_frame": ratio([result["vision_per_frame"] for result in results]),
        "a": ratio([result["windows"]["a"] for result in results]),
        "a_of_halves": [ratio([result["windows"][half] for half in halves]) for result in results],
        "r2": [result["windows"]["r2"] for result in results],
        "wall_of_half_processor": [result["wall_of_half_processor"] for result in results],
        "wall_of_half_in_stages": [result["wall_of_half_in_stages"] for result in results],
        "wall_of_half_stages": [result["wall_of_half_stages"] for result in results],
    }


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


def in_child(*arguments) -> dict:
    command = [sys.executable, "-m", "benchmarks.end_to_end", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(paths: Sequence[Path], warm_up: Path, ratio: int, readings: Sequence[int]) -> list[dict]:
    """Both ways of every film, each in processes of its own; the stages in turns, with so many readings a turn."""
    common = [("--one", path, "--warm-up", warm_up, "--ratio", ratio) for path in paths]
    results, turns = [], [[] for _ in paths]
    for film in common:
        wholes = sorted((in_child(*film) for _ in range(WHOLE)), key=lambda whole: whole["wall_of_half_processor"])
        every = [whole["wall_of_half_processor"] for whole in wholes]
        results.append({**wholes[WHOLE // 2], "wall_of_half_processor_all": every})
    for _ in range(TURNS):
        for film, count, own in zip(common, readings, turns):
            own.append(in_child(*film, "--readings", count))
    for result, own in zip(results, turns):
        result |= of_turns(own, result["frames"])
        result["wall_of_half_stages"] = result["wall"] / (sum(result["stages"].values()) / 2)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--frames", type=integers, default=(1000, 10000), help="of the films (default: 1000,10000)")
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--one", help="measure this film in this process")
    parser.add_argument("--warm-up", help="film to be read before it")
    parser.add_argument("--readings", type=int, help="of it, for what stages take; without it, as users run it")
    arguments = parser.parse_args(argv)
    if arguments.one:
        one = (arguments.one, arguments.warm_up, arguments.ratio)
        told = measure_stages(*one, arguments.readings) if arguments.readings else measure_whole(*one)
        print(json.dumps(told))
        return
    lengths = arguments.frames
    with tempfile.TemporaryDirectory() as folder:
        warm_up = write_long_film(Path(folder) / "warm_up.mp4", WARM_UP, *SIZE)
        paths = [write_long_film(Path(folder) / f"{frames}.mp4", frames, *SIZE) for frames in lengths]
        results = measure(paths, warm_up, arguments.ratio, [max(lengths) // frames for frames in lengths])
    arguments.output.parent.mkdir(exist_ok=True)
    draw(results[0], arguments.output.with_suffix(".png"))
    for result in results:
        result.pop("spans")
    machine = {"cores": os.cpu_count(), "ratio": arguments.ratio}
    record = json.dumps({"machine": machine, "films": results, "compared": compared(results)}, indent=1)
    print(record)
    arguments.output.write_text(record + "\n")


if __name__ == "__main__":
    main()
