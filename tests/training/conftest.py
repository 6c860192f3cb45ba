"""A small checkpoint, and rows that it can learn."""

import json

import pytest
from PIL import Image
from training_rows import STEPS, film, row
from transformers import AutoProcessor

from videoxl.training.run import read_config


@pytest.fixture(scope="session")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture
def rows():
    """Ten rows: films of one to three windows, with two turns each, and texts."""
    films = [
        row(f"film {n}", "<image>\nWhat is it?", f"It is {n}.", "Sure?", "Yes.", video=film(5 + 4 * n, n))
        for n in range(8)
    ]
    return [*films, row("text 0", "Who are you?", "A model."), row("text 1", "Say no.", "No.")]


@pytest.fixture
def annotations(tmp_path):
    """A file of eight rows about pictures, as frames of films, and the pictures beside it."""
    for n in range(8):
        Image.fromarray(film(1, n)[0]).save(tmp_path / f"{n}.png")
    pictures = [[f"{(n + k) % 8}.png" for k in range(6 + 3 * n)] for n in range(8)]
    written = [row(f"film {n}", "<image>\nWhat?", f"The {n}th.", image=pictures[n]) for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(written))
    return tmp_path / "rows.json"


@pytest.fixture(scope="module")
def settings():
    """The package's recipe with three steps a stage."""
    settings = read_config("tiny")
    settings["tokenizer_films"] = 30
    settings["text"] = {"hidden": 64, "layers": 2}
    del settings["circuits"]  # which are for the whole model
    settings["vision"] |= {"steps": STEPS, "batch_size": 8, "tower": {"hidden": 32, "layers": 1}}
    settings["trainer"] |= {"logging_steps": 1, "save_steps": 2, "save_total_limit": 2, "dataloader_num_workers": 0}
    short = {"steps": STEPS, "batch_size": 2, "questions": 2}
    settings["spelled"] = [
        {**settings["spelled"][0], **short},
        {**settings["spelled"][-1], **short, "frames": [4, 30]},
    ]
    settings["seeing"] = [{**stage, "steps": STEPS, "batch_size": 8} for stage in settings["seeing"]]
    settings["album"] = [{**settings["album"][-1], **short, "frames": [4, 20], "album": {"looks": 1, "scenes": 4}}]
    return settings
