"""What `import videoxl` does, and what it leaves alone."""

import json
import subprocess
import sys

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

import videoxl

LOADED = """
import json, sys
from transformers import CLIPVisionModel, Qwen2ForCausalLM
before = set(sys.modules)
import videoxl
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def test_importing_adds_nothing_heavy_to_transformers_model_classes():
    """No decoder, no web framework, no data set library: they are loaded when they are used."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    added = set(json.loads(done.stdout))
    assert "videoxl" in added
    assert not added & {"av", "decord", "torchcodec", "gradio", "datasets", "peft", "matplotlib", "pandas", "cv2"}


def test_registering_again_changes_nothing():
    task = PIPELINE_REGISTRY.supported_tasks[videoxl.TASK]
    videoxl.register()
    videoxl.register()
    assert PIPELINE_REGISTRY.supported_tasks[videoxl.TASK] is task
    assert task["impl"] is videoxl.VideoQuestionAnsweringPipeline
    config = AutoConfig.for_model("videoxl")
    assert type(config) is videoxl.VideoXLConfig
    assert AutoModelForCausalLM._model_mapping[type(config)] is videoxl.VideoXLForCausalLM
    assert PROCESSOR_MAPPING[type(config)] is videoxl.VideoXLProcessor


def test_public_names_exist():
    assert all(hasattr(videoxl, name) for name in videoxl.__all__)
