"""Configuration, cache and model of Video-XL."""

from .backbone_videoxl import VideoXLModel
from .cache_videoxl import VideoXLCache
from .configuration_videoxl import VideoXLConfig, VideoXLTextConfig
from .modeling_videoxl import VideoXLForCausalLM

__all__ = ["VideoXLCache", "VideoXLConfig", "VideoXLForCausalLM", "VideoXLModel", "VideoXLTextConfig"]
