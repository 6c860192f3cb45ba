"""A small Video-XL with the goldens' weights, and inputs for it."""

import pytest
from small_model import Small

from videoxl import VideoXLForCausalLM


@pytest.fixture
def small(authors_checkpoint):
    """The goldens' model, read from the authors' layout; fresh for each test."""
    model = VideoXLForCausalLM.from_pretrained(authors_checkpoint, vision_tower=authors_checkpoint / "clip")
    return Small(model.eval(), authors_checkpoint)


@pytest.fixture
def film(small):
    """A prompt with a video of 37 frames: three windows of 48 visual tokens and one of 4; ids and pixels."""
    return small.text(9) + [small.video] * 148 + small.text(7), small.frames(37)
