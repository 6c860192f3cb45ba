"""Makes transformers' Auto classes and pipelines know Video-XL."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor  # at top level only with torchvision
from transformers.pipelines import PIPELINE_REGISTRY

from videoxl.modeling_videoxl import VideoXLConfig, VideoXLForCausalLM, VideoXLModel
from videoxl.pipelines import VideoQuestionAnsweringPipeline
from videoxl.processing import VideoXLImageProcessor, VideoXLProcessor, VideoXLVideoProcessor

TASK = "video-question-answering"


def register() -> None:
    """
    Registers configuration, models, processors and the pipeline. Doing it again changes nothing.

    The key mapping of the authors' checkpoints is registered where the models are defined, because remote code, which
    never comes here, needs it too.
    """
    AutoConfig.register(VideoXLConfig.model_type, VideoXLConfig, exist_ok=True)
    AutoModel.register(VideoXLConfig, VideoXLModel, exist_ok=True)
    AutoModelForCausalLM.register(VideoXLConfig, VideoXLForCausalLM, exist_ok=True)
    AutoModelForImageTextToText.register(VideoXLConfig, VideoXLForCausalLM, exist_ok=True)
    # The PIL classes stand for every backend: the authors' preprocessing is PIL's, with or without torchvision.
    backends = ("pil", "torchvision")
    image_processors = dict.fromkeys(backends, VideoXLImageProcessor)
    video_processors = dict.fromkeys(backends, VideoXLVideoProcessor)
    AutoImageProcessor.register(VideoXLConfig, image_processor_classes=image_processors, exist_ok=True)
    AutoVideoProcessor.register(VideoXLConfig, video_processor_classes=video_processors, exist_ok=True)
    AutoProcessor.register(VideoXLConfig, VideoXLProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=VideoQuestionAnsweringPipeline, pt_model=AutoModelForCausalLM, type="multimodal"
        )
