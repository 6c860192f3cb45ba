"""What a training step holds for its backward pass, with `checkpoint_windows` and without, on CPU.

``python -m benchmarks.train_memory`` from the repository's root. Held bytes are counted, not sampled: of all storages
that the forward pass allocates, those alive at its end. The bound is 1.5 x (M D + (M / r) 2 L kv_dim) elements per
frame: a frame's visual tokens and the K/V kept of it; pixels are the caller's. Peak: the process's largest resident
size during forward and backward above that before it, in a child process for each row of the table.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.models import random_model
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "train_memory.json"
FRAMES = (16, 32, 64, 128, 256)
TOLERANCE = 1.5
PREFIX, SUFFIX = 14, 20
VISION = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 8,
}
TABLE = "{:<20}{:>8}{:>10}{:>10}{:>17}{:>10}"


@dataclass(frozen=True)
class Shapes:
    """The model's sizes: heads of 32, frames of 64 x 64 in patches of 8, 16 visual tokens each."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    window: int = 144
    ratio: int = 8
    vocabulary: int = 600

    @property
    def bound_per_frame(self) -> float:
        """Bytes of float32 that a frame may cost."""
        tokens, kv_width = 16, self.kv_heads * 32
        return TOLERANCE * 4 * (tokens * self.hidden + tokens / self.ratio * 2 * self.layers * kv_width)


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of the storages that were made under it and still live."""

    def __init__(self):
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    @property
    def live(self) -> int:
        return sum(size for reference, size in self._made.values() if not reference.expired())


def build_model(shapes: Shapes) -> VideoXLForCausalLM:
    """A small model with random weights, in training."""
    torch.manual_seed(0)
    return random_model(shapes, VISION, [shapes.ratio], pad_token_id=0).train()


def lesson(shapes: Shapes, frames: int) -> dict:
    """A film with a labelled text behind it, as arguments of `forward`."""
    draw = torch.Generator().manual_seed(frames)
    before, after = (torch.randint(3, 500, (1, count), generator=draw) for count in (PREFIX, SUFFIX))
    video = torch.full((1, 16 * frames), shapes.vocabulary - 1)
    return {
        "input_ids": torch.cat((before, video, after), dim=1),
        "labels": torch.cat((torch.full((1, PREFIX + 16 * frames), -100), after), dim=1),
        "pixel_values_videos": [torch.randn(frames, 3, 64, 64, generator=draw)],
        "compression_ratio": shapes.ratio,
    }


def held_bytes(model: VideoXLForCausalLM, arguments: dict) -> int:
    """Bytes that live from the end of the forward pass to the backward pass, parameters and input left out."""
    with HeldBytes() as counter:
        output = model(**arguments)
        held = counter.live
    del output
    return held


def peak_bytes(model: VideoXLForCausalLM, arguments: dict) -> int:
    """Growth of the process's largest resident size over one step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(**arguments).loss.backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure(shapes: Shapes, frames: int, checkpointed: bool) -> dict:
    """One row of the table, in this process."""
    model = build_model(shapes)
    model.enable_window_checkpointing(checkpointed)
    arguments = lesson(shapes, frames)
    peak = peak_bytes(model, arguments)
    return {"frames": frames, "held": held_bytes(model, arguments), "peak": peak}


def in_child(frames: int, checkpointed: bool) -> dict:
    command = [sys.executable, "-m", "benchmarks.train_memory", "--one", str(frames)]
    done = subprocess.run(
        [*command, *(["--checkpoint"] if checkpointed else [])], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--one", type=int, help="measure this many frames in this process")
    parser.add_argument("--checkpoint", action="store_true", help="with --one: with checkpoint_windows")
    arguments = parser.parse_args()
    shapes = Shapes()
    if arguments.one:
        print(json.dumps(measure(shapes, arguments.one, arguments.checkpoint)))
        return
    results = {"shapes": asdict(shapes), "bound_per_frame": shapes.bound_per_frame}
    print(f"bound: {shapes.bound_per_frame:,.0f} bytes per added frame")
    print(TABLE.format("checkpoint_windows", "frames", "held MB", "peak MB", "per added frame", "of bound"))
    for checkpointed in (False, True):
        rows = [in_child(frames, checkpointed) for frames in FRAMES]
        for previous, row in pairwise([None, *rows]):
            added = previous and (row["held"] - previous["held"]) / (row["frames"] - previous["frames"])
            row["per_added_frame"] = added
            figures = (f"{added:,.0f}", f"{added / shapes.bound_per_frame:.2f}") if added else ("", "")
            held, peak = (f"{row[name] / 1e6:.1f}" for name in ("held", "peak"))
            print(TABLE.format(str(checkpointed), row["frames"], held, peak, *figures))
        results["with" if checkpointed else "without"] = rows
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
