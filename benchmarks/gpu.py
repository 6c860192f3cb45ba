"""The published model's shapes on one GPU: how long, how much memory, and how near to what the card can do.

``python -m benchmarks.gpu`` from the repository's root, on a machine with a CUDA device. Random bfloat16 weights, made
on the device; frames are levels (uint8) on the CPU, as the processor streams them. Measured, each after a warm-up:

- products: the card's matrix-product peak and copy bandwidth, which the shares below are of;
- prefill of 2,048 frames at 2, 4, 8 and 16, from levels on the CPU to a memory; peak memory of that;
- decoding at that memory, plain, by CUDA graphs and compiled besides, in turn: tokens per second, and the bytes read
  for each as a share of the bandwidth;
- the authors' way, restated (``authors_way.py``), on the same weights and frames, in turn with ours;
- films under caps of memory: a memory filled with random entries for all but the last windows, then these for real,
  then 32 tokens; the largest number of frames that goes.

``--tiny --device cpu`` runs everything that needs no CUDA, on a toy, to see that it runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import CompileConfig, GenerationConfig

from benchmarks.authors_way import AuthorsWay, Hyper
from benchmarks.models import random_model
from videoxl.modeling_videoxl.cache_videoxl import VideoXLCache
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.windows_videoxl import VIDEO

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "gpu.json"
RATIOS = (2, 4, 8, 16)
CAPS_GB = (24, 48, 80)
PREFIX, SUFFIX, DECODED = 14, 20, 64
WARM = 3  # tokens, of which one is run, and one recorded
DECODING = {  # on the CPU there are no graphs: the second is the first, and left out
    "plain": {"disable_compile": True},
    "graphs": {},
    "compiled": {"compile_config": CompileConfig()},
}
REAL_WINDOWS = 4  # of a film under a cap


@dataclass(frozen=True)
class Shapes:
    """The model's sizes; the published ones by default."""

    hidden: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    intermediate: int = 18944
    vocabulary: int = 152064
    window: int = 1440
    vision_hidden: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    image_size: int = 336
    patch: int = 14

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    @property
    def tokens_per_frame(self) -> int:
        return self.patches // 4


TINY = Shapes(64, 3, 4, 2, 96, 200, 40, 32, 2, 2, 28, 7)


def build_model(shapes: Shapes, device: str) -> VideoXLForCausalLM:
    """Random weights, bfloat16, made on the device."""
    vision = {
        "hidden_size": shapes.vision_hidden,
        "intermediate_size": 4 * shapes.vision_hidden,
        "num_hidden_layers": shapes.vision_layers,
        "num_attention_heads": shapes.vision_heads,
        "patch_size": shapes.patch,
        "image_size": shapes.image_size,
    }
    return random_model(shapes, vision, RATIOS, pad_token_id=0, device=device, dtype=torch.bfloat16)


class Levels:
    """A film as the processor streams it: levels on the CPU, made into pixel values on the model's device."""

    def __init__(self, frames: int, size: int):
        self._levels = torch.randint(0, 256, (min(frames, 256), 3, size, size), dtype=torch.uint8)
        self._frames = frames

    def __len__(self) -> int:
        return self._frames

    def split(self, count: int) -> Iterator[torch.Tensor]:
        for start in range(0, self._frames, count):
            stop = min(start + count, self._frames)
            yield self._levels[torch.arange(start, stop) % len(self._levels)]

    def pixel_values(self, piece: torch.Tensor) -> torch.Tensor:
        return (piece.float() / 255 - 0.45) / 0.27


@dataclass
class Bench:
    """What all measurements share."""

    shapes: Shapes
    model: VideoXLForCausalLM
    device: str

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def timed(self, call: Callable):
        """Seconds, and what `call` returned."""
        self.wait()
        start = time.perf_counter()
        result = call()
        self.wait()
        return time.perf_counter() - start, result

    def peak_gb(self, call: Callable) -> float | None:
        """Largest allocation while `call` runs, weights included."""
        if not self.is_cuda:
            call()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 1e9

    def ids(self, count: int) -> torch.Tensor:
        return torch.randint(3, self.shapes.vocabulary - 2, (1, count), device=self.device)

    def prefill(self, frames: int, ratio: int) -> VideoXLCache:
        return self.model.prefill_video(self.ids(PREFIX), Levels(frames, self.shapes.image_size), ratio)

    def decode(self, cache: VideoXLCache, tokens: int, **how) -> None:
        config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **how)
        self.model.generate(self.ids(SUFFIX), past_key_values=cache, generation_config=config)


def products(bench: Bench) -> dict:
    """Measured matrix-product peak, FLOP/s, and copy bandwidth, bytes/s (read and written)."""
    side = 8192 if bench.is_cuda else 256
    left, right = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    seconds, _ = bench.timed(lambda: [left @ right for _ in range(20)])
    target = torch.empty_like(left)
    copying, _ = bench.timed(lambda: [target.copy_(left) for _ in range(50)])
    return {"flops": 20 * 2 * side**3 / seconds, "bandwidth": 50 * 2 * left.nbytes / copying}


def prefill_flops(shapes: Shapes, frames: int, ratio: int) -> float:
    """Multiplications and additions of a prefill's matrix products, attention included."""
    rows = shapes.patches + 1
    vision_layer = rows * 2 * 12 * shapes.vision_hidden**2 + 4 * rows**2 * shapes.vision_hidden
    vision = frames * (shapes.vision_layers - 1) * vision_layer
    vision += frames * shapes.patches * 2 * (shapes.vision_hidden + shapes.hidden) * shapes.hidden
    tokens, kv_width = frames * shapes.tokens_per_frame, shapes.hidden * shapes.kv_heads // shapes.heads
    passed = tokens + tokens // ratio
    layer = 2 * shapes.hidden * (2 * shapes.hidden + 2 * kv_width + 3 * shapes.intermediate)
    seen = tokens / ratio / 2 + shapes.window / 2  # entries that a row attends to, on average
    return vision + shapes.layers * passed * (layer + 4 * shapes.hidden * seen)


def measure_prefill(bench: Bench, frames: int, peak: float) -> list[dict]:
    rows = []
    for ratio in RATIOS:
        bench.prefill(min(frames, 64), ratio)
        seconds, cache = bench.timed(lambda ratio=ratio: bench.prefill(frames, ratio))
        kept = cache.summary()["bytes"]
        del cache
        memory = bench.peak_gb(lambda ratio=ratio: bench.prefill(frames, ratio))
        share = prefill_flops(bench.shapes, frames, ratio) / seconds / peak
        rows.append({"ratio": ratio, "seconds": seconds, "share_of_peak": share, "peak_gb": memory, "kept": kept})
        print(rows[-1], flush=True)
    return rows


def measure_decoding(bench: Bench, frames: int, bandwidth: float, repeats: int = 3) -> dict:
    """Seconds of a token, recording a graph not counted: the difference of two answers' lengths."""
    cache = bench.prefill(frames, 16)
    language = sum(p.nbytes for p in bench.model.model.language_model.layers.parameters())
    beacons = sum(p.nbytes for name, p in bench.model.named_parameters() if "beacon" in name)
    read = language - beacons + bench.model.lm_head.weight.nbytes + cache.summary()["bytes"]
    seconds: dict[str, list[float]] = {way: [] for way in DECODING if bench.is_cuda or way != "graphs"}
    for repeat in range(1 + repeats):
        for way in seconds:
            ends = (1 + WARM, 1 + WARM + DECODED)
            runs = [partial(bench.decode, cache.copy(), tokens, **DECODING[way]) for tokens in ends]
            first, whole = (bench.timed(run)[0] for run in runs)
            if repeat:  # the first is for compilers
                seconds[way].append((whole - first) / DECODED)
    told: dict = {"bytes_per_token": read, "seconds_per_token": seconds}
    for way, measured in seconds.items():
        per_token = statistics.median(measured)
        told[way] = {"tokens_per_second": 1 / per_token, "share": read / per_token / bandwidth}
    print(told, flush=True)
    return told


@torch.no_grad()
def authors_prefill(bench: Bench, frames: int, ratio: int) -> None:
    """All features first, then the passes, unrotated memory, a mask for each pass and logits for all rows."""
    film, inner = Levels(frames, bench.shapes.image_size), bench.model.model
    pieces = (inner._encode(VIDEO, film.pixel_values(piece.to(bench.device))) for piece in film.split(32))
    features = torch.cat(list(pieces))
    way = AuthorsWay(bench.model.state_dict(), Hyper.from_dict(bench.model.config.text_config.to_dict()), True)
    way.prefill(bench.ids(PREFIX)[0], features, ratio)
    way.step(bench.ids(SUFFIX)[0])


def measure_authors(bench: Bench, frames: int, ratio: int = 16, repeats: int = 2) -> dict:
    """The two ways in turn."""
    ways = {"ours": bench.prefill, "authors": lambda *shape: authors_prefill(bench, *shape)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            seconds[way].append(bench.timed(lambda run=run: run(frames, ratio))[0])
    memory = {way: bench.peak_gb(lambda run=run: run(frames, ratio)) for way, run in ways.items()}
    told = {"seconds": seconds, "peak_gb": memory, "times_faster": min(seconds["authors"]) / min(seconds["ours"])}
    print(told, flush=True)
    return told


@torch.no_grad()
def long_film(bench: Bench, frames: int, ratio: int) -> None:
    """A memory of `frames` frames, random but for the last windows, and 32 tokens more."""
    shapes = bench.shapes
    window_frames = max(1, shapes.window // shapes.tokens_per_frame)
    real = REAL_WINDOWS * window_frames
    cache = bench.prefill(window_frames, ratio)
    skipped = max(0, frames - real - window_frames) * shapes.tokens_per_frame
    width, dtype = shapes.hidden // shapes.heads, bench.model.dtype
    cache.reserve(frames * shapes.tokens_per_frame // ratio)
    for layer in cache.layers:
        states = torch.randn(1, shapes.kv_heads, skipped // ratio, width, device=bench.device, dtype=dtype)
        layer.update(states, states)
    cache.advance(skipped, skipped // ratio, True, True)
    visual = torch.full((1, real * shapes.tokens_per_frame), bench.model.config.video_token_id, device=bench.device)
    film = Levels(real, shapes.image_size)
    bench.model.model(
        input_ids=visual,
        pixel_values_videos=[film],
        past_key_values=cache,
        compression_ratio=ratio,
        logits_to_keep=torch.zeros(0, dtype=torch.long),
        use_cache=True,
    )
    bench.decode(cache, 32)


def largest_under(bench: Bench, cap_gb: float, ratio: int = 16) -> dict:
    """The largest film, to a tenth, that goes under a cap of the device's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * 1e9 / total))

    def goes(frames: int) -> bool:
        try:
            long_film(bench, frames, ratio)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    fits, fails = 0, 1000
    while fails < 400_000 and goes(fails):
        fits, fails = fails, 2 * fails
    while fails - fits > max(500, fits // 10):
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if goes(middle) else (fits, middle)
    torch.cuda.set_per_process_memory_fraction(1.0)
    told = {"cap_gb": cap_gb, "frames": fits, "ratio": ratio}
    print(told, flush=True)
    return told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy instead of the published shapes")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("No CUDA device here: --tiny --device cpu runs a toy.")
    torch.manual_seed(0)
    shapes = TINY if options.tiny else Shapes()
    bench = Bench(shapes, build_model(shapes, options.device), options.device)
    device = torch.cuda.get_device_name() if bench.is_cuda else "cpu"
    told = {"device": device, "shapes": asdict(shapes), "frames": options.frames, "products": products(bench)}
    print(told["products"], flush=True)
    with torch.no_grad():
        told["prefill"] = measure_prefill(bench, options.frames, told["products"]["flops"])
        told["decoding"] = measure_decoding(bench, options.frames, told["products"]["bandwidth"])
        told["authors"] = measure_authors(bench, options.frames)
        long_film(bench, options.frames, 16)
        if bench.is_cuda:
            told["largest"] = [largest_under(bench, cap) for cap in CAPS_GB]
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
