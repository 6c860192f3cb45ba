"""One call from video and question to answer."""

try:
    from .pipeline_videoxl import VideoQuestionAnsweringPipeline
except ImportError:
    from transformers import Pipeline

    class VideoQuestionAnsweringPipeline(Pipeline):  # temporary, until pipeline_videoxl.py lands
        pass


__all__ = ["VideoQuestionAnsweringPipeline"]
