"""
Video-XL for the Hugging Face ecosystem: questions about hour-long videos on one GPU.

Importing this package registers its classes with transformers' Auto classes and the task
"video-question-answering" with its pipelines, so that both work on checkpoints without remote code.
"""

from videoxl.modeling_videoxl import (
    VideoXLCache,
    VideoXLConfig,
    VideoXLForCausalLM,
    VideoXLModel,
    VideoXLTextConfig,
)
from videoxl.pipelines import VideoQuestionAnsweringPipeline
from videoxl.processing import VideoDecodeError, VideoXLImageProcessor, VideoXLProcessor, VideoXLVideoProcessor
from videoxl.registration import TASK, register
from videoxl.tiny import tiny_checkpoint

__version__ = "0.1.0"

register()

__all__ = [
    "TASK",
    "VideoDecodeError",
    "VideoQuestionAnsweringPipeline",
    "VideoXLCache",
    "VideoXLConfig",
    "VideoXLForCausalLM",
    "VideoXLImageProcessor",
    "VideoXLModel",
    "VideoXLProcessor",
    "VideoXLTextConfig",
    "VideoXLVideoProcessor",
    "register",
    "tiny_checkpoint",
]
