"""Models of random weights, of the sizes that are measured."""

from collections.abc import Sequence
from typing import Protocol

import torch

from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM


class TextShapes(Protocol):
    """A language model's sizes; `window` counts visual tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    window: int


def random_model(
    shapes: TextShapes,
    vision: dict,
    ratios: Sequence[int],
    initializer_range: float = 0.02,
    pad_token_id: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoXLForCausalLM:
    """The model with random weights, made on the device in their dtype; `vision` is CLIP's configuration."""
    config = VideoXLConfig(
        text_config={
            "hidden_size": shapes.hidden,
            "num_hidden_layers": shapes.layers,
            "num_attention_heads": shapes.heads,
            "num_key_value_heads": shapes.kv_heads,
            "intermediate_size": shapes.intermediate,
            "vocab_size": shapes.vocabulary,
            "beacon_window": shapes.window,
            "beacon_ratio": list(ratios),
            "initializer_range": initializer_range,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": pad_token_id,
        },
        vision_config=vision,
        image_token_id=shapes.vocabulary - 2,
        video_token_id=shapes.vocabulary - 1,
        initializer_range=initializer_range,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return VideoXLForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)
