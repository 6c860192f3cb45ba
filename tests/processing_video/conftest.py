import importlib.util
from pathlib import Path

import pytest
from transformers.utils import logging
from video_files import FILMS, set_edit_list, set_matrix, write_video

from videoxl.processing.video_adapters_videoxl import loads_torchcodec

collect_ignore = [] if loads_torchcodec() else ["test_video_torchcodec.py"]


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """Path of a numbered film by its name in `FILMS`, made when first asked for."""
    folder = tmp_path_factory.mktemp("films")
    made = {}

    def path(name: str) -> str:
        if name not in made:
            made[name] = write_video(folder / name, **FILMS[name])
        return made[name]

    return path


@pytest.fixture(scope="session")
def trimmed_film(tmp_path_factory) -> str:
    """60 frames of 40 ms in an mp4 whose edit list shows the 25 from number 17 on (17 is no keyframe)."""
    path = write_video(tmp_path_factory.mktemp("trimmed") / "trimmed.mp4", options={"bf": "2"})
    set_edit_list(path, media_start=12800 * 17 // 25 + 1024, milliseconds=1000)
    return path


@pytest.fixture
def turned_film(tmp_path):
    """Path of a film of 5 frames with the display matrix (a, b, c, d)."""

    def path(matrix) -> str:
        name = write_video(tmp_path / "turned.mp4", frames=5)
        set_matrix(name, matrix)
        return name

    return path


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of videos that come with the gradio package."""
    return Path(importlib.util.find_spec("gradio").origin).parent / "media_assets" / "videos"


@pytest.fixture
def log_lines(caplog):
    """transformers' warnings, which do not reach the root logger by themselves."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()
