"""One call from video and question to answer."""

from .pipeline_videoxl import VideoQuestionAnsweringPipeline

__all__ = ["VideoQuestionAnsweringPipeline"]
