"""What float8 costs in answers: the needle test of the small checkpoint, with its products rounded and without.

``python -m benchmarks.float8`` from the repository's root, anywhere: the roundings are restated, the kernels are not.
torchao's `Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())` rounds the weights of the language model's
linear layers once, and what goes into them each time, to float8 (e4m3), each row by its largest number.
"""

import argparse
import json
import tempfile

import torch
from torch import nn
from transformers import pipeline

import videoxl
from videoxl.evaluation.niah import NiahSettings, run_niah

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def rounded(states: torch.Tensor) -> torch.Tensor:
    """`[..., n]`, each row as float8 would hold it with a scale of its own."""
    scale = states.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST  # [..., 1]
    return ((states / scale).to(torch.float8_e4m3fn).to(states.dtype) * scale).to(states.dtype)


def round_products(language_model: nn.Module) -> None:
    """Has all linear layers of a language model compute with rounded weights and rounded inputs from now on."""
    for layer in language_model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = rounded(layer.weight.data)
            layer.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--questions", type=int, default=20, help="needles, each at five depths")
    options = parser.parse_args(arguments)
    settings = NiahSettings(frames=(options.frames,), ratios=(options.ratio,), questions=options.questions)
    for way in ("exact", "float8"):
        pipe = pipeline("video-question-answering", model=videoxl.tiny_checkpoint(), device="cpu")
        if way == "float8":
            round_products(pipe.model.model.language_model)
        with tempfile.TemporaryDirectory() as folder:
            summary = run_niah(pipe, settings, folder)
        print(json.dumps({"way": way, "mean": summary["mean"], "interval": summary["interval"]}), flush=True)


if __name__ == "__main__":
    main()
