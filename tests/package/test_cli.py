"""The commands as a user types them."""

import json
import os
import subprocess
import sys

import pytest
from transformers import pipeline

from videoxl.cli import main
from videoxl.synthetic.films import Film, write_film

QUESTIONS = ["What happens in this video?", "Is <|im_end|> in it?"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(Film(1, 30), tmp_path_factory.mktemp("films") / "film.mp4")


def test_ask_prints_what_the_pipeline_answers(film, checkpoint, capsys):
    arguments = ["ask", str(film), *QUESTIONS, "--model", str(checkpoint), "--frames", "30", "--ratio", "4"]
    assert main([*arguments, "--max-new-tokens", "9", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    pipe = pipeline("video-question-answering", model=str(checkpoint))
    answers = pipe(video=str(film), question=QUESTIONS, num_frames=30, compression_ratio=4, max_new_tokens=9)
    assert [answer["answer"] for answer in printed["answers"]] == [answer["answer"] for answer in answers]
    assert [answer["question"] for answer in printed["answers"]] == QUESTIONS
    assert printed["memory"]["visual_tokens_seen"] == 120
    assert printed["memory"]["kept"]["beacons"] == 30
    assert main([*arguments, "--max-new-tokens", "9"]) == 0
    words = capsys.readouterr().out
    assert answers[1]["answer"] in words
    assert "frames         30" in words
    assert "visual tokens  120" in words
    assert "ratio          4.0" in words


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["ask", "missing.mp4", "What?"], "missing.mp4"),
        (["ask", __file__, "What?"], "test_cli.py"),
        (["ask", "FILM", " "], "question"),
        (["ask", "FILM", "What?", "--frames", "0"], "num_frames"),
        (["ask", "FILM", "What?", "--ratio", "-2"], "compression_ratio=-2"),
        (["ask", "FILM", "What?", "--ratio", "49"], "a window has 48 visual tokens"),
    ],
)
def test_bad_input_is_one_line_that_names_it(arguments, said, film, checkpoint, capsys):
    arguments = [str(film) if argument == "FILM" else argument for argument in arguments]
    assert main([*arguments, "--model", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_model_named_or_set_or_the_small_one(film, checkpoint, tiny, monkeypatch, capsys):
    """--model before VIDEOXL_MODEL before the checkpoint that ships; they see 4 and 16 visual tokens in a frame."""
    seen = []
    for variable, named in (("", []), (str(checkpoint), []), (str(checkpoint), ["--model", str(tiny)])):
        monkeypatch.setenv("VIDEOXL_MODEL", variable)
        assert main(["ask", str(film), "What?", "--frames", "2", "--max-new-tokens", "1", "--json", *named]) == 0
        seen.append(json.loads(capsys.readouterr().out)["memory"]["visual_tokens_seen"])
    assert seen == [32, 8, 32]


def test_a_hub_id_that_cannot_be_loaded_is_named(film, capsys):
    assert main(["ask", str(film), "What?", "--model", "nobody/nothing"]) == 1
    assert "--model nobody/nothing: no folder here" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(film, tmp_path, capsys):
    assert main(["ask", str(film), "What?", "--model", str(tmp_path / "gone")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'gone'}: no such folder" in error and "OWNER/NAME" in error


def test_package_without_its_checkpoint_says_so(film, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("VIDEOXL_MODEL", raising=False)
    monkeypatch.setattr("videoxl.tiny.FOLDER", tmp_path / "videoxl_tiny")
    assert main(["ask", str(film), "What?"]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "videoxl_tiny") in error and "--model" in error
    assert "Traceback" not in error


def test_command_starts_with_threads_that_wait_in_peace():
    """OpenMP tells its settings when torch has loaded it: the command had spoken before."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", "from videoxl_command import main; main()", "--help"]
    done = subprocess.run(
        command, env=environment | {"OMP_DISPLAY_ENV": "TRUE"}, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert "Video-XL" in done.stdout


def test_convert_check_and_export(authors_checkpoint, tmp_path, capsys):
    source, tower, dest = str(authors_checkpoint), str(authors_checkpoint / "clip"), str(tmp_path / "ours")
    assert main(["convert", source, dest]) == 1
    assert "--vision-tower" in capsys.readouterr().err
    assert main(["convert", source, dest, "--vision-tower", tower]) == 0
    assert "model.language_model.embed_tokens.weight" in capsys.readouterr().out
    assert main(["convert", source, dest, "--vision-tower", tower]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", "--check", source, dest, "--vision-tower", tower]) == 0
    assert main(["export-hub", dest, str(tmp_path / "bundle")]) == 0
    assert (tmp_path / "bundle" / "modeling_videoxl.py").is_file()


def test_interrupted_command_says_so(checkpoint, film, monkeypatch, capsys):
    def interrupt(*arguments, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("videoxl.cli.load_pipeline", interrupt)
    assert main(["ask", str(film), "What?", "--model", str(checkpoint)]) == 130
    assert "Interrupted" in capsys.readouterr().err
