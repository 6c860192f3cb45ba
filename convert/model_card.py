"""The model card of a Hub bundle: what can be said from the configuration and the weights, and no more."""

from math import prod
from pathlib import Path
from string import Template

from videoxl.convert.weight_files import WeightFiles
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig


def model_card(config: VideoXLConfig, weights: WeightFiles, repo: str | None = None) -> str:
    """The text of README.md; `repo` is the name it will be loaded by, if known."""
    text, vision = config.text_config, config.vision_config
    template = Template(Path(__file__).with_name("model_card.md").read_text(encoding="utf-8"))
    head_size = text.hidden_size // text.num_attention_heads
    return template.substitute(
        title=repo.split("/")[-1] if repo else "Video-XL",
        repo=repo or "PATH_OR_REPOSITORY",
        parameters=f"{sum(prod(tensor.shape) for tensor in weights.tensors.values()):,}",
        size=f"{sum(file.stat().st_size for file in weights.files) / 1e6:,.1f} MB",
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        tokens_per_frame=config.tokens_per_frame,
        window=text.beacon_window,
        window_frames=text.beacon_window // config.tokens_per_frame,
        ratios=", ".join(map(str, text.beacon_ratio)),
        default_ratio=config.default_compression_ratio,
        bytes_per_token=f"{text.num_hidden_layers * 2 * text.num_key_value_heads * head_size * 2:,}",
    )
