"""Whether a converted folder computes what its source does."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Tokenizer

from videoxl.convert.conversion_plan import ConversionError
from videoxl.convert.source import DEFAULT_SOURCE, locate_source
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM

FRAMES = 3
SEED = 0
# Both read the same weights by the same code; only a table with other rows may round differently.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class ConversionCheck:
    """The largest difference between the logits of both folders, over how many rows, and the largest logit."""

    difference: float
    largest: float
    rows: int

    def __str__(self) -> str:
        return (
            f"logits of source and destination differ by at most {self.difference:.2e} over {self.rows} rows "
            f"(largest logit {self.largest:.2f})"
        )


def check_conversion(
    source: str | os.PathLike = DEFAULT_SOURCE,
    dest: str | os.PathLike = "Video-XL",
    subfolder: str | None = None,
    vision_tower: str | os.PathLike | None = None,
) -> ConversionCheck:
    """
    Compares the logits of the published folder, loaded directly, with those of the converted one.

    The input is a short text with a few frames of noise; one model at a time is in memory, in `dest`'s dtype.

    Args:
        source, subfolder, vision_tower: as given to `convert_checkpoint`.
        dest: what it made.

    Raises:
        ConversionError: if the logits differ by more than rounding does.
    """
    folder = locate_source(source, subfolder)
    converted = VideoXLForCausalLM.from_pretrained(dest, dtype="auto")
    inputs, dtype = _short_input(converted, Path(dest)), converted.dtype
    ours = _logits(converted, inputs)
    del converted
    gc.collect()
    theirs = _logits(VideoXLForCausalLM.from_pretrained(folder, vision_tower=vision_tower, dtype=dtype), inputs)
    vocabulary = min(ours.shape[-1], theirs.shape[-1])
    difference = (ours[..., :vocabulary] - theirs[..., :vocabulary]).abs().max().item()
    check = ConversionCheck(difference, theirs.abs().max().item(), ours.shape[1])
    if not difference <= TOLERANCE[dtype] * max(1.0, check.largest):  # NaN is no agreement either
        raise ConversionError(f"{dest} does not compute what {folder} does: {check}.")
    return check


def _short_input(model: VideoXLForCausalLM, dest: Path) -> dict:
    config, tokenizer = model.config, Qwen2Tokenizer.from_pretrained(dest)
    before = tokenizer("Some frames of a film:", return_tensors="pt").input_ids
    after = tokenizer("What do they show?", return_tensors="pt").input_ids
    seen = torch.full((1, FRAMES * config.tokens_per_frame), config.video_token_id)
    side = config.vision_config.image_size
    frames = torch.randn(FRAMES, 3, side, side, generator=torch.Generator().manual_seed(SEED))
    return {
        "input_ids": torch.cat([before, seen, after], dim=1),  # [1, T]
        "pixel_values_videos": [frames.to(model.dtype)],
    }


@torch.no_grad()
def _logits(model: VideoXLForCausalLM, inputs: dict) -> torch.Tensor:
    return model.eval()(**inputs, use_cache=False).logits.float()  # [1, T, vocabulary]
