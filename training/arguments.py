"""The settings of a training run."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from .curriculum import Curriculum
from .parts import ALL_PARTS, LoraSettings, check_parts


@dataclass
class VideoXLTrainingArguments(TrainingArguments):
    """
    transformers' `TrainingArguments` and what Video-XL needs beyond them.

    Args:
        model (`str`): folder or Hub id of the checkpoint to start from.
        bf16 (`bool` or `"auto"`): as in transformers; `auto` where the machine multiplies in bfloat16.
        model_dtype (`str`): in which its weights are held; with `bf16=True`, float32 weights compute in bfloat16.
        attn_implementation (`str`): as in transformers: `sdpa`, `eager`, `flash_attention_2`, …; by default the best.
        train_data, eval_data: see [`read_annotations`].
        media_folder (`str`): what the names of videos and images are relative to; by default the annotations' folder.
        frames_per_second (`float`): of videos.
        max_frames (`int`): cap of a video's frames.
        label_turn_marks (`bool`): learn the marks of every turn, as the authors do, not the assistant's alone.
        trained_parts (`list[str]`): of `projector`, `vision_tower`, `language_model`, `beacons`, `lm_head`.
        lora (`dict`): `rank`, `alpha`, `dropout`: train adapters in place of the language model and the beacons'
            projections.
        curriculum (`list[dict]`): see [`Curriculum`].
        checkpoint_windows (`bool`): keep of each window its features and VSTs alone, and compute it again in the
            backward pass.

    Raises:
        ValueError: naming a value that cannot be meant.
    """

    bf16: bool | str = False
    model: str | None = None
    model_dtype: str = "float32"
    attn_implementation: str | None = None
    train_data: Any = None
    eval_data: Any = None
    media_folder: str | None = None
    frames_per_second: float = 1.0
    max_frames: int = 128
    label_turn_marks: bool = False
    trained_parts: list[str] = field(default_factory=lambda: list(ALL_PARTS))
    lora: dict | None = None
    curriculum: list[dict] = field(default_factory=list)
    checkpoint_windows: bool = False
    # others than transformers' defaults
    remove_unused_columns: bool | None = False  # rows are dicts of their own
    report_to: str | list[str] | None = "tensorboard"
    ddp_find_unused_parameters: bool | None = True  # texts leave VSTs and projector out, and CLIP's last layers rest

    def __post_init__(self):
        if self.bf16 not in (True, False, "auto"):
            raise ValueError(f"bf16={self.bf16!r}: give true, false or auto")
        if self.bf16 == "auto":
            self.bf16 = multiplies_in_bfloat16(self.use_cpu)
        super().__post_init__()
        if not isinstance(self.max_frames, int) or self.max_frames < 1:
            raise ValueError(f"max_frames={self.max_frames!r}: give a positive integer")
        if not isinstance(self.frames_per_second, (int, float)) or self.frames_per_second <= 0:
            raise ValueError(f"frames_per_second={self.frames_per_second!r}: give a number above 0")
        check_parts(self.trained_parts)
        Curriculum(self.curriculum)
        if self.lora is not None:
            LoraSettings.from_dict(self.lora)


def multiplies_in_bfloat16(use_cpu: bool) -> bool:
    """
    Whether the device that trains has instructions for bfloat16. A processor without them computes in it all the same,
    some ten times slower than in float32.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # there is no public way to ask


def arguments_from(settings: Mapping[str, Any]) -> VideoXLTrainingArguments:
    """
    The arguments that a configuration file's `settings` mean.

    Raises:
        ValueError: for a name that there is none of, with the nearest that there is; or for a value of a wrong type.
    """
    known = {one.name: one for one in fields(VideoXLTrainingArguments) if one.init}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(f"unknown setting {name!r}: did you mean {near[0]!r}?")
    numbers = {name for name in settings if known[name].type in (float, float | None)}
    try:
        return VideoXLTrainingArguments(
            **{name: _number(name, value) if name in numbers else value for name, value in settings.items()}
        )
    except TypeError as error:
        raise ValueError(f"a setting has a value of the wrong type: {error}") from error


def _number(name: str, value: Any) -> Any:
    """YAML takes `1e-5`, without a point, for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{name}: needs a number, got the text {value!r}") from error
