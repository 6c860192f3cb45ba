"""Configuration of Video-XL: a CLIP vision tower, a two-layer projector, and a Qwen2 that compresses what it sees."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from .original_layout_videoxl import KNOWN_VISION_TOWERS
from .windows_videoxl import is_ratio

DEFAULT_VISION_TOWER = "clip-vit-large-patch14-336"

BEACON_PROJECTIONS = ("q", "k", "v")


@strict
class VideoXLTextConfig(Qwen2Config):
    r"""
    Qwen2's configuration and the beacon fields of the published checkpoint. Defaults are the published values.

    Args:
        beacon_window (`int`, defaults to 1440):
            Visual tokens per window (10 frames of 144 tokens).
        beacon_stride (`int`, *optional*):
            Step from window to window; the published model, and this one, step by whole windows.
        beacon_ratio (`list[int]`, defaults to `[2, 4, 8]`):
            Compression ratios of training: `r` visual tokens become one VST.
        beacon_ratio_mix (`str`, defaults to `"step-random"`):
            How the authors' training mixes the ratios. Kept for the record: a ratio is drawn for every window.
        beacon_param (`list[str]`, defaults to `["q", "k", "v"]`):
            Which attention projections VST rows have of their own; the others they share with every row.
        beacon_embed_init (`str`, defaults to `"eos"`):
            What the VST's embedding starts as when a checkpoint has none.
        beacon_attn, beacon_attend_prev, beacon_pos, beacon_accum, beacon_sink_size, beacon_parallel_window:
            The authors' switches. Only the published setting is computed here; any other value is refused.
    """

    model_type = "videoxl_text"
    base_config_key = "text_config"
    base_model_tp_plan: ClassVar[dict] = {
        **Qwen2Config.base_model_tp_plan,
        **{f"layers.*.self_attn.beacon_{name}_proj": "colwise" for name in BEACON_PROJECTIONS},
    }

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    beacon_window: int = 1440
    beacon_stride: int | None = None
    beacon_ratio: list[int] | None = None
    beacon_ratio_mix: str = "step-random"
    beacon_param: list[str] | None = None
    beacon_embed_init: str = "eos"
    beacon_attn: str = "full-coverage"
    beacon_attend_prev: bool = True
    beacon_pos: str = "interleave"
    beacon_accum: bool = True
    beacon_sink_size: int = 0
    beacon_parallel_window: int = 1

    def __post_init__(self, **kwargs):
        self.beacon_stride = self.beacon_window if self.beacon_stride is None else self.beacon_stride
        self.beacon_ratio = [2, 4, 8] if self.beacon_ratio is None else list(self.beacon_ratio)
        self.beacon_param = list(BEACON_PROJECTIONS) if self.beacon_param is None else list(self.beacon_param)
        if self.rope_parameters is None and "rope_theta" not in kwargs:
            # Qwen2's library default is 10,000; every published Video-XL was trained at a million.
            self.rope_parameters = {"rope_type": "default", "rope_theta": 1000000.0}
        super().__post_init__(**kwargs)

    def validate_beacon_ratios(self):
        """Ratios are positive integers or 0, and no window is smaller than the largest."""
        if not self.beacon_ratio or not all(is_ratio(ratio) for ratio in self.beacon_ratio):
            raise ValueError(
                f"beacon_ratio={self.beacon_ratio}: give a list of compression ratios, each a positive integer, "
                "or 0 for no compression."
            )
        if self.beacon_window < max(1, *self.beacon_ratio):
            raise ValueError(
                f"beacon_window={self.beacon_window} is smaller than the largest ratio of "
                f"beacon_ratio={self.beacon_ratio}: such a window could hold no VST. Enlarge the window."
            )

    def validate_beacon_setting(self):
        """Refuses every setting of the authors' switches whose computation is not the one implemented."""
        supported = {
            "beacon_attn": "full-coverage",
            "beacon_attend_prev": True,
            "beacon_pos": "interleave",
            "beacon_accum": True,
            "beacon_sink_size": 0,
            "beacon_parallel_window": 1,
            "beacon_stride": self.beacon_window,
            "use_sliding_window": False,
        }
        for name, value in supported.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; supported is {value!r}.")
        unknown = [name for name in self.beacon_param if name not in BEACON_PROJECTIONS]
        if unknown:
            raise ValueError(
                f"beacon_param={self.beacon_param}: {unknown} is not supported; supported are {BEACON_PROJECTIONS}."
            )


@strict
class VideoXLConfig(PreTrainedConfig):
    r"""
    Args:
        text_config (`VideoXLTextConfig` or `dict`, *optional*): the language model, with the beacon fields.
        vision_config (`CLIPVisionConfig` or `dict`, *optional*): the vision tower; CLIP ViT-L/14 at 336 px by default.
        image_token_id (`int`, defaults to 151646): placeholder of one visual token of an image.
        video_token_id (`int`, defaults to 151647): placeholder of one visual token of a video.
        vision_feature_layer (`int`, defaults to -2):
            Index into CLIP's hidden states (0 is the embedding's output) of the features that the projector gets.
        spatial_pool_stride (`int`, defaults to 2): pooling stride over a frame's patches, after the projector.
        spatial_pool_mode (`str`, defaults to `"average"`): `"average"` or `"max"`. Image tiles are always pooled
            2 x 2 by average, as the authors do.
        image_grid_pinpoints (`list` or `str`, *optional*, defaults to `"(1x1),...,(6x6)"`):
            Resolutions (width, height) that an image may be tiled to, as the checkpoint writes them; the image
            processor reads them.
        default_compression_ratio (`int`, defaults to 8): the ratio where a call names none; 0 is no compression.
        summarize_remainder (`bool`, defaults to `False`):
            Put one more VST after the last left-over tokens of a span, so that nothing is lost where the ratio does
            not divide. The authors' model drops them.
        vision_chunk_size (`int`, defaults to 16): frames that go through the vision tower at once.
    """

    model_type = "videoxl"
    sub_configs_defaults: ClassVar[dict] = {"text_config": VideoXLTextConfig, "vision_config": CLIPVisionConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 151646
    video_token_id: int = 151647
    vision_feature_layer: int = -2
    spatial_pool_stride: int = 2
    spatial_pool_mode: str = "average"
    image_grid_pinpoints: list | str = "(1x1),...,(6x6)"
    default_compression_ratio: int = 8
    summarize_remainder: bool = False
    vision_chunk_size: int = 16
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict):
            self.text_config = VideoXLTextConfig(**self.text_config)
        elif self.text_config is None:
            self.text_config = VideoXLTextConfig()
        if isinstance(self.vision_config, dict):
            self.vision_config = CLIPVisionConfig(**self.vision_config)
        elif self.vision_config is None:
            self.vision_config = CLIPVisionConfig(**KNOWN_VISION_TOWERS[DEFAULT_VISION_TOWER])
        if not type(self).__module__.startswith("transformers_modules"):
            # The installed package needs no code from the folder: without these, pipeline() does not ask for it, and
            # what is saved again does not point at files that are not there.
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of one frame of a video: floor(P / s)^2 for P patches per side."""
        return (self._patches_per_side // self.spatial_pool_stride) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile of an image, which is always pooled 2 x 2."""
        return (self._patches_per_side // 2) ** 2

    @property
    def _patches_per_side(self) -> int:
        return self.vision_config.image_size // self.vision_config.patch_size

    def validate_compression(self):
        """The default ratio is a ratio that the window can hold."""
        if not is_ratio(self.default_compression_ratio):
            raise ValueError(
                f"default_compression_ratio={self.default_compression_ratio}: give a positive integer, or 0 for "
                "no compression."
            )
        if self.default_compression_ratio > self.text_config.beacon_window:
            raise ValueError(
                f"default_compression_ratio={self.default_compression_ratio} is larger than "
                f"beacon_window={self.text_config.beacon_window}: give a ratio of at most the window."
            )

    def validate_vision(self):
        """The features' layer exists and the pooling is one that is computed."""
        layers = self.vision_config.num_hidden_layers
        if not -layers - 1 <= self.vision_feature_layer <= layers:
            raise ValueError(
                f"vision_feature_layer={self.vision_feature_layer}: the tower has hidden states 0 to {layers}."
            )
        if self.spatial_pool_mode not in ("average", "max"):
            raise ValueError(f"spatial_pool_mode={self.spatial_pool_mode!r}: supported are 'average' and 'max'.")
        if not 1 <= self.spatial_pool_stride <= self._patches_per_side:
            raise ValueError(
                f"spatial_pool_stride={self.spatial_pool_stride}: give an integer from 1 to "
                f"{self._patches_per_side}, the patches per side."
            )
        if self.vision_chunk_size < 1:
            raise ValueError(f"vision_chunk_size={self.vision_chunk_size}: give at least one frame.")

    def validate_placeholders(self):
        """Both placeholders are rows of the embedding, and not the same."""
        vocab_size = self.text_config.vocab_size
        for name in ("image_token_id", "video_token_id"):
            if not 0 <= getattr(self, name) < vocab_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} lies outside the vocabulary of {vocab_size}: enlarge "
                    "text_config.vocab_size or choose an unused id."
                )
        if self.image_token_id == self.video_token_id:
            raise ValueError(f"image_token_id and video_token_id are both {self.image_token_id}: choose two ids.")


__all__ = ["VideoXLConfig", "VideoXLTextConfig"]
