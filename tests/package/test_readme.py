"""The README's examples run as they stand, in an empty folder."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from videoxl.cli import main
from videoxl.synthetic.films import Film, write_film

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_examples_run_in_order(converted, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 4
    shutil.copytree(converted, tmp_path / "path" / "to" / "converted")
    write_film(Film(1, 30), tmp_path / "film.mp4")
    script = "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tokens seen" in done.stdout


def test_commands_are_understood(converted, tmp_path, monkeypatch, capsys):
    """Every `videoxl` line of the README, but for the one that downloads."""
    shutil.copytree(converted, tmp_path / "path" / "to" / "converted")
    write_film(Film(1, 30), tmp_path / "film.mp4")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^videoxl (.*)$", README, re.M)
    assert len(lines) >= 3
    for line in lines:
        command = re.sub(r"\s+#.*|\s*\[--json\]", "", line)
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
        if words[0] != "convert":
            assert main(words) == 0, capsys.readouterr().err


def test_make_targets_exist():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
