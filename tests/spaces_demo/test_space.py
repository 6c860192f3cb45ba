"""The folder as a Hugging Face Space, and the command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import gradio
from huggingface_hub import metadata_load
from packaging.requirements import Requirement

from videoxl.spaces_demo.app import main

SPACE = Path(__file__).parents[2] / "spaces_demo"


def test_front_matter_is_what_a_space_needs():
    data = metadata_load(SPACE / "README.md")
    assert data["sdk"] == "gradio"
    assert data["sdk_version"] == gradio.__version__
    assert (SPACE / data["app_file"]).is_file()
    assert data["license"] == "apache-2.0"
    assert len(data["short_description"]) <= 60  # the Hub's limit


def test_requirements_are_requirements():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    names = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert names == {"torch", "videoxl"}


def test_serves_the_model_of_its_variable(tmp_path, tiny):
    """As a Space runs it: `python app.py` in a folder with nothing else."""
    shutil.copy(SPACE / "app.py", tmp_path)
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "VIDEOXL_MODEL": str(tiny),
    }
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stdout if "http://127.0.0.1" in line)
            with urlopen(line[line.index("http") :].strip()) as page:
                shown = page.read().decode()
        finally:
            server.terminate()
    assert "videoxl_tiny" in shown
    assert "knows one world" in shown


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "Traceback" not in error
