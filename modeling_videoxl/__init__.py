"""Configuration, cache and model of Video-XL."""

from .cache_videoxl import VideoXLCache
from .configuration_videoxl import VideoXLConfig, VideoXLTextConfig
from .modeling_videoxl import VideoXLForCausalLM, VideoXLModel

__all__ = ["VideoXLCache", "VideoXLConfig", "VideoXLForCausalLM", "VideoXLModel", "VideoXLTextConfig"]
