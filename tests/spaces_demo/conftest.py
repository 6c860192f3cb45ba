"""The app on a converted checkpoint, served in this process, and the same checkpoint's pipeline."""

import pytest
from gradio_client import Client
from transformers import pipeline

from videoxl.demo import find_real_video
from videoxl.spaces_demo.app import build_app, launch


@pytest.fixture(scope="session")
def client(checkpoint):
    """A client of the app, which has a pipeline of its own."""
    app = build_app(pipeline("video-question-answering", model=str(checkpoint), device="cpu"))
    _, url, _ = launch(app, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    client = Client(url, verbose=False)
    yield client
    client.close()
    app.close(verbose=False)


@pytest.fixture(scope="session")
def film():
    """30 s that nobody here drew."""
    return str(find_real_video())


@pytest.fixture(scope="session")
def cut_film(film, tmp_path_factory):
    """Its first 600,000 bytes: 11 s."""
    path = tmp_path_factory.mktemp("films") / "cut.mp4"
    with open(film, "rb") as whole:
        path.write_bytes(whole.read(600_000))
    return str(path)
