"""Rows of annotations that tests make."""

import numpy as np

STEPS = 3  # of each stage of the small checkpoint's recipe in tests


def film(frames, seed=0):
    """A film of random frames, uint8 [F, 60, 60, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, 60, 60, 3), dtype=np.uint8)


def row(name, *texts, **more):
    """A row whose texts are those of human and gpt in turn."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": name, "conversations": turns, **more}
