"""The golden cases, and a processor of their sizes built by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from videoxl.processing.image_processing_videoxl import VideoXLImageProcessor
from videoxl.processing.processing_videoxl import VideoXLProcessor, add_placeholder_tokens
from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "authors_tiny"
PIXELS = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
PINPOINTS = "[(56, 112), (112, 56), (112, 112), (168, 56), (56, 168)]"  # as the golden config.json has them


class Goldens:
    """Records of cases.json and tensors of cases.safetensors."""

    def __init__(self):
        self._tensors = safe_open(FIXTURES / "cases.safetensors", "pt")
        self._names = set(self._tensors.keys())
        self.cases = {case["name"]: case for case in json.loads((FIXTURES / "cases.json").read_text())}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors.get_tensor(name)

    def has(self, name: str) -> bool:
        return name in self._names

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [case for case in self.cases.values() if case["kind"] == kind]


@pytest.fixture(scope="session")
def goldens() -> Goldens:
    return Goldens()


def new_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "checkpoint")
    add_placeholder_tokens(tokenizer)
    return tokenizer


@pytest.fixture
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def image_processor() -> VideoXLImageProcessor:
    return VideoXLImageProcessor(image_grid_pinpoints=PINPOINTS, **PIXELS)


@pytest.fixture
def processor(image_processor, tokenizer) -> VideoXLProcessor:
    return VideoXLProcessor(
        image_processor=image_processor,
        video_processor=VideoXLVideoProcessor(**PIXELS),
        tokenizer=tokenizer,
        tokens_per_frame=4,
        tokens_per_tile=4,
    )


@pytest.fixture
def frames() -> torch.Tensor:
    """A video of six small frames, uint8 [F, H, W, 3]."""
    return torch.randint(0, 256, (6, 60, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
