"""Videos, images and text into the inputs of Video-XL."""

from .image_processing_videoxl import VideoXLImageProcessor
from .processing_videoxl import VideoXLProcessor
from .video_index_videoxl import VideoDecodeError
from .video_processing_videoxl import VideoXLVideoProcessor

__all__ = ["VideoDecodeError", "VideoXLImageProcessor", "VideoXLProcessor", "VideoXLVideoProcessor"]
