"""The golden checkpoint behind a pipeline, and second ways to its answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import GenerationConfig, pipeline

FIXTURES = Path(__file__).parents[1] / "fixtures" / "authors_tiny"
TASK = "video-question-answering"
NEW_TOKENS = 12
PLACEHOLDERS = [503, 504]
NO_END = 499  # an end token that the answers below do not hold, so that each has NEW_TOKENS tokens


HEADER = {"add_generation_prompt": True}


@pytest.fixture
def fresh_pipe(checkpoint):
    """A pipeline whose model a test may change."""
    return pipeline(TASK, model=str(checkpoint), device="cpu")


@pytest.fixture(scope="session")
def goldens() -> list[dict[str, Any]]:
    """The golden cases that carry frames or an image, with them and the authors' tokens."""
    tensors = safe_open(FIXTURES / "cases.safetensors", "pt")
    names = set(tensors.keys())
    cases = []
    for case in json.loads((FIXTURES / "cases.json").read_text()):
        media = {
            key: tensors.get_tensor(f"{case['name']}.{name}")
            for key, name in (("video", "frames"), ("images", "image"))
            if f"{case['name']}.{name}" in names
        }
        if media:
            cases.append({**case, **media, "tokens": tensors.get_tensor(f"{case['name']}.tokens").tolist()})
    return cases


@pytest.fixture(scope="session")
def film() -> torch.Tensor:
    """40 frames of noise over a moving block, uint8 [F, H, W, 3]: four windows, the last one with left-overs at 16."""
    frames = torch.randint(0, 90, (40, 60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for place in range(40):
        frames[place, 10:40, place : place + 30, place % 3] = 250
    return frames


@pytest.fixture(scope="session")
def generated(pipe) -> Callable[..., torch.Tensor]:
    """
    What the model itself generates for a chat, without the pipeline: all in one call of `generate`, no prefilled
    cache, purely greedy but for the placeholders, which these random weights choose now and then, unless `settings`
    say otherwise. Returns the new tokens, [n, T].
    """

    def generate(messages, compression_ratio=None, processor_kwargs=None, prompt=None, **settings):
        inputs = pipe.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, processor_kwargs=processor_kwargs, **(prompt or HEADER)
        )
        inputs.pop("image_sizes", None)
        neutral = {"do_sample": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        neutral |= {"max_new_tokens": NEW_TOKENS, "eos_token_id": NO_END, "pad_token_id": 500}
        config = GenerationConfig(**{**neutral, "suppress_tokens": PLACEHOLDERS, **settings})
        output = pipe.model.generate(**inputs, generation_config=config, compression_ratio=compression_ratio)
        return output[:, inputs["input_ids"].shape[1] :]

    return generate


@pytest.fixture(scope="session")
def arguments() -> dict[str, Any]:
    """Arguments of the pipeline that make its answers as long as `generated`'s."""
    return {"max_new_tokens": NEW_TOKENS, "eos_token_id": NO_END}
