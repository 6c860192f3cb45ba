"""Prefill time and memory of the model against the authors' way of computing (``authors_way.py``), on CPU.

``python -m benchmarks.prefill`` from the repository's root. Same random weights for all ways, features given, one
sequence: prefix text, the video's visual tokens, suffix text, asked for the last row's logits. Three ways:

- ``ours``: ``VideoXLForCausalLM.forward`` with ``logits_to_keep=1``;
- ``authors``: the restatement, logits for all rows of every pass;
- ``authors, last logits``: the same without the LM head for rows that nobody asks for.

Time: all ways in turn (A B C A B C …) in one process, after one short uncounted run each. Memory: one child process
per way and length, the peak resident size during the prefill above the resident size before it; weights and features
are loaded before, so they count for nobody. Time of a window: what passes between two entries into the first decoder
layer during the timed runs of ``ours``, fitted by a + b x (entries kept when the window starts).
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.authors_way import AuthorsWay, Hyper, split_windows
from benchmarks.models import random_model
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM

ROOT = Path(__file__).parent.parent
DEFAULT_OUTPUT = ROOT / "benchmarks" / "results" / "prefill.json"
WAYS = ("ours", "authors", "authors, last logits")
MIB = 2**20


@dataclass(frozen=True)
class Shapes:
    """The model's sizes and the sequence's; ``window`` counts visual tokens, the prefix and suffix are text."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    intermediate: int = 2048
    vocabulary: int = 32_000
    patches_per_side: int = 24
    window: int = 1440
    ratio: int = 8
    prefix: int = 14
    suffix: int = 20
    initializer_range: float = 0.04  # attention far from uniform, so that the ways' logits can be told apart

    @property
    def tokens_per_frame(self) -> int:
        return (self.patches_per_side // 2) ** 2


FULL = Shapes()
TINY = Shapes(32, 3, 4, 2, 48, 128, patches_per_side=4, window=40, initializer_range=0.2)


# -- the ways ---------------------------------------------------------------------------------------------------------


def build_model(shapes: Shapes) -> VideoXLForCausalLM:
    """The model with random weights and, as features are given, a vision tower as small as one can be."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "patch_size": 14,
        "image_size": 14 * shapes.patches_per_side,
    }
    return random_model(shapes, vision, [shapes.ratio], shapes.initializer_range)


@dataclass(frozen=True)
class Inputs:
    prefix: Tensor  # [P]
    features: Tensor  # [n, D]
    suffix: Tensor  # [S]


def make_inputs(shapes: Shapes, frames: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(shapes.vocabulary - 2, (shapes.prefix + shapes.suffix,), generator=generator)
    features = torch.randn(frames * shapes.tokens_per_frame, shapes.hidden, generator=generator)
    return Inputs(text[: shapes.prefix], features, text[shapes.prefix :])


def prefill_ours(model: VideoXLForCausalLM, shapes: Shapes, inputs: Inputs) -> Tensor:
    """The last row's logits [V]."""
    visual = inputs.prefix.new_full((len(inputs.features),), model.config.video_token_id)
    output = model(
        input_ids=torch.cat([inputs.prefix, visual, inputs.suffix])[None],
        mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=[inputs.features])},
        compression_ratio=shapes.ratio,
        logits_to_keep=1,
        use_cache=True,
    )
    return output.logits[0, -1]


def prefill_authors(model: VideoXLForCausalLM, shapes: Shapes, inputs: Inputs, all_logits: bool) -> Tensor:
    """The last row's logits [V]."""
    way = AuthorsWay(model.state_dict(), Hyper.from_dict(model.config.text_config.to_dict()), all_logits)
    way.prefill(inputs.prefix, inputs.features, shapes.ratio)
    return way.step(inputs.suffix)[-1]


@torch.no_grad()
def prefill(way: str, model: VideoXLForCausalLM, shapes: Shapes, inputs: Inputs) -> Tensor:
    if way == "ours":
        return prefill_ours(model, shapes, inputs)
    return prefill_authors(model, shapes, inputs, all_logits=way == "authors")


# -- time -------------------------------------------------------------------------------------------------------------


@contextmanager
def pass_starts(model: VideoXLForCausalLM) -> Iterator[list[float]]:
    """Collects the moments at which passes enter the first decoder layer."""
    starts: list[float] = []
    first_layer = model.model.language_model.layers[0]
    hook = first_layer.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    try:
        yield starts
    finally:
        hook.remove()


def time_run(way: str, model: VideoXLForCausalLM, shapes: Shapes, inputs: Inputs) -> tuple[dict, Tensor]:
    """One timed prefill: its seconds (for ours also each full window's), and the last row's logits [V]."""
    load = os.getloadavg()[0]
    with pass_starts(model) as starts:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        logits = prefill(way, model, shapes, inputs)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    run = {"way": way, "seconds": seconds, "cpu_seconds": cpu_seconds, "load_average_before": load}
    if way == "ours":
        windows = len(split_windows(len(inputs.features), shapes.window))
        if len(starts) != windows + 2:
            raise RuntimeError(
                f"{len(starts)} passes for {windows} windows, prefix and suffix: the times mean nothing"
            )
        full = len(inputs.features) // shapes.window
        run["window_seconds"] = [after - before for before, after in pairwise(starts[1:])][:full]
    return run, logits


def time_all(shapes: Shapes, frame_counts: list[int], repeats: int) -> tuple[list[dict], float]:
    """All timed runs, the ways in turn, and the largest difference of their logits from the authors' way."""
    model = build_model(shapes)
    warm_up = make_inputs(shapes, 2 * shapes.window // shapes.tokens_per_frame)
    for way in WAYS:
        prefill(way, model, shapes, warm_up)
    runs: list[dict] = []
    largest = 0.0
    for frames in frame_counts:
        inputs = make_inputs(shapes, frames)
        reference = None
        for repeat in range(repeats):
            answers = {}
            for way in WAYS:
                run, answers[way] = time_run(way, model, shapes, inputs)
                runs.append({"frames": frames, "repeat": repeat, **run})
                print(f"time {frames} frames, {repeat + 1}/{repeats}: {way} {run['seconds']:.3f} s", flush=True)
            reference = answers["authors"] if reference is None else reference
            largest = max([largest, *((logits - reference).abs().max().item() for logits in answers.values())])
    return runs, largest


# -- memory -----------------------------------------------------------------------------------------------------------


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the peak since the last reset) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> bool:
    """Sets the peak to what is resident now; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure_memory(way: str, shapes: Shapes, frames: int) -> dict:
    """In a process of its own: bytes resident before the prefill and at its peak."""
    model, inputs = build_model(shapes), make_inputs(shapes, frames)
    # The first use of threads and kernels takes memory that belongs to no way.
    prefill(way, model, shapes, make_inputs(shapes, frames=1))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    was_reset = reset_peak()
    before = resident("VmRSS")
    prefill(way, model, shapes, inputs)
    return {"before_bytes": before, "peak_bytes": resident("VmHWM"), "peak_was_reset": was_reset}


def memory_child(way: str, frames: int, threads: int, tiny: bool) -> dict:
    """``measure_memory`` in a child process."""
    command = [sys.executable, "-m", "benchmarks.prefill", "--child", way]
    command += ["--frames", str(frames), "--threads", str(threads), *(["--tiny"] if tiny else [])]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure_all_memory(frame_counts: list[int], repeats: int, threads: int, tiny: bool) -> list[dict]:
    runs = []
    for frames in frame_counts:
        for repeat in range(repeats):
            for way in WAYS:
                run = memory_child(way, frames, threads, tiny)
                above = run["peak_bytes"] - run["before_bytes"]
                runs.append({"frames": frames, "repeat": repeat, "way": way, "above_bytes": above, **run})
                print(f"memory {frames} frames, {repeat + 1}/{repeats}: {way} {above / MIB:.1f} MiB", flush=True)
    return runs


# -- results ----------------------------------------------------------------------------------------------------------


def fit_windows(runs: list[dict], shapes: Shapes) -> dict | None:
    """Least squares of a window's median time over what is kept when it starts; None below three windows."""
    times = [run["window_seconds"] for run in runs if run["way"] == "ours"]
    seconds = [statistics.median(window) for window in zip(*times)]
    if len(seconds) < 3:
        return None
    kept = [shapes.prefix + number * (shapes.window // shapes.ratio) for number in range(len(seconds))]
    slope, offset = statistics.linear_regression(kept, seconds)
    return {
        "a_seconds": offset,
        "b_seconds_per_kept_entry": slope,
        "r2": statistics.correlation(kept, seconds) ** 2,
        "kept_entries": kept,
        "median_window_seconds": seconds,
    }


def median_of(runs: list[dict], frames: int, way: str, field: str) -> float:
    return statistics.median(run[field] for run in runs if run["frames"] == frames and run["way"] == way)


def summarize(runs: list[dict], memory: list[dict], frame_counts: list[int]) -> list[dict]:
    """One row per length and way: medians, and how many times ours they are."""
    rows = []
    for frames in frame_counts:
        for way in WAYS:
            row = {"frames": frames, "way": way}
            for source, field in ((runs, "seconds"), (runs, "cpu_seconds"), (memory, "above_bytes")):
                row[field] = median_of(source, frames, way, field)
                row[f"{field}_times_ours"] = row[field] / median_of(source, frames, "ours", field)
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| frames | way | wall, s | x ours | processor, s | x ours | peak above weights, MiB | x ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['frames']} | {row['way']} | {row['seconds']:.3g} | {row['seconds_times_ours']:.2f} "
            f"| {row['cpu_seconds']:.3g} | {row['cpu_seconds_times_ours']:.2f} "
            f"| {row['above_bytes'] / MIB:.0f} | {row['above_bytes_times_ours']:.2f} |"
        )
    return "\n".join(lines)


def machine_facts() -> dict:
    cpu_info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefill", description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256], help="lengths of the video")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each way at each length")
    parser.add_argument("--memory-repeats", type=int, default=2, help="child processes of each way at each length")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the JSON is written")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    shapes = TINY if options.tiny else FULL
    if options.child:
        print(json.dumps(measure_memory(options.child, shapes, options.frames[0])))
        return
    runs, difference = time_all(shapes, options.frames, options.repeats)
    memory = measure_all_memory(options.frames, options.memory_repeats, options.threads, options.tiny)
    longest = max(options.frames)
    fit = fit_windows([run for run in runs if run["frames"] == longest], shapes)
    rows = summarize(runs, memory, options.frames)
    record = {
        "machine": machine_facts(),
        "shapes": {**asdict(shapes), "tokens_per_frame": shapes.tokens_per_frame, "dtype": "float32"},
        "summary": rows,
        "window_time_fit": None if fit is None else {"frames": longest, **fit},
        "largest_logit_difference": difference,
        "time_runs": runs,
        "memory_runs": memory,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{table(rows)}\n\nlargest difference of the ways' logits: {difference:.1e}")
    if fit is not None:
        print(
            f"window time at {longest} frames = {fit['a_seconds']:.4g} s + {fit['b_seconds_per_kept_entry']:.4g} s "
            f"x kept entries, R2 = {fit['r2']:.4f}"
        )


if __name__ == "__main__":
    main()
