"""The README's examples run as they stand, in an empty folder."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from videoxl.cli import build_parser, main
from videoxl.synthetic.films import Film, write_film
from videoxl.training.run import read_config

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


# Training, evaluation and what downloads takes long: those lines are read, not run.
LONG = {"convert", "assemble", "train", "eval"}
PLACED = "import pathlib, sys, videoxl.tiny; videoxl.tiny.FOLDER = pathlib.Path(sys.argv[1])\n"


def test_examples_run_in_order(checkpoint, tiny, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 4
    shutil.copytree(checkpoint, tmp_path / "path" / "to" / "converted")
    write_film(Film(1, 30), tmp_path / "film.mp4")
    command = [sys.executable, "-c", PLACED + "\n".join(blocks), str(tiny)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tokens seen" in done.stdout


def test_commands_are_understood(checkpoint, tiny, tmp_path, monkeypatch, capsys):
    """Every `videoxl` line of the README."""
    shutil.copytree(checkpoint, tmp_path / "path" / "to" / "converted")
    write_film(Film(1, 30), tmp_path / "film.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDEOXL_MODEL", raising=False)
    lines = re.findall(r"^videoxl (.*)$", README, re.M)
    assert {line.split()[0] for line in lines} >= {"ask", "demo", "export-hub", *LONG}
    for line in lines:
        words = shlex.split(re.sub(r"\[--json\]", "", line), comments=True)
        if words[0] not in LONG:
            assert main(words) == 0, capsys.readouterr().err
            continue
        arguments = build_parser().parse_args(words)
        if words[0] == "train":
            assert read_config(arguments.config)


def test_make_targets_exist():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([\w-]+)", README, re.M)
    assert len(targets) >= 5
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
