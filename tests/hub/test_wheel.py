"""The wheel holds every package and module of the tree, and imports from somewhere else."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from transformers import pipeline

from videoxl import TASK
from videoxl.synthetic.films import Film, write_film
from videoxl.synthetic.needles import Needle

ROOT = Path(__file__).parents[2]
# Folders with Python files that are no part of the package.
NOT_PACKAGED = {"tests", "benchmarks"}
DATA_SUFFIXES = {".json", ".safetensors", ".jinja", ".md", ".txt", ".typed", ".yaml"}

IMPORT_EVERYTHING = """
import importlib, json, sys
names = json.loads(sys.argv[1])
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""


ASK = """
import json, sys
from transformers import pipeline
import videoxl
pipe = pipeline(videoxl.TASK, model=videoxl.tiny_checkpoint())
answer = pipe(video=sys.argv[1], question="Which letter was shown?", max_new_tokens=6)["answer"]
print(json.dumps({"folder": str(videoxl.tiny_checkpoint()), "answer": answer}))
"""


def packages_of(tree: Path) -> list[Path]:
    return sorted(init.parent for init in tree.glob("*/__init__.py") if init.parent.name not in NOT_PACKAGED)


def installed_path(file: Path, tree: Path) -> str:
    inside = file.relative_to(tree)
    return str(inside if inside.parts[0] == "videoxl" else Path("videoxl") / inside)


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tiny) -> Path:
    """A clean copy of the tree, with the small checkpoint in its place."""
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "videoxl_command.py"):
        shutil.copy(ROOT / name, tree)
    for package in packages_of(ROOT):
        shutil.copytree(package, tree / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tiny, tree / "videoxl" / "videoxl_tiny", dirs_exist_ok=True)
    return tree


@pytest.fixture(scope="module")
def unpacked(tree) -> Path:
    """The wheel of the tree, unpacked."""
    folder = tree.parent
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, tree]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("videoxl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_holds_what_the_tree_holds(tree, unpacked):
    files = [file for package in packages_of(tree) for file in package.rglob("*") if "__pycache__" not in file.parts]
    expected = {installed_path(file, tree) for file in files if file.suffix in {".py", *DATA_SUFFIXES}}
    built = {str(file.relative_to(unpacked)) for file in (unpacked / "videoxl").rglob("*") if file.is_file()}
    assert built == expected
    assert (unpacked / "videoxl_command.py").is_file()


def test_small_checkpoint_answers_from_the_wheel(tiny, unpacked, run_clean, tmp_path):
    installed = unpacked / "videoxl" / tiny.name
    assert {file.name: file.read_bytes() for file in installed.iterdir()} == {
        file.name: file.read_bytes() for file in tiny.iterdir()
    }
    film = write_film(Film(1, 9, ((4, Needle("letter", "K", "red")),)), tmp_path / "film.mp4")
    said = json.loads(run_clean(ASK, film, paths=(unpacked,)).splitlines()[-1])
    assert Path(said["folder"]) == installed
    pipe = pipeline(TASK, model=str(tiny))
    assert said["answer"] == pipe(video=film, question="Which letter was shown?", max_new_tokens=6)["answer"]


def test_every_module_imports_from_the_wheel(unpacked, run_clean):
    modules = [str(file.relative_to(unpacked).with_suffix("")) for file in (unpacked / "videoxl").rglob("*.py")]
    names = sorted(module.removesuffix("/__init__").replace("/", ".") for module in modules)
    origins = json.loads(run_clean(IMPORT_EVERYTHING, json.dumps(names), paths=(unpacked,)))
    assert sorted(origins) == names
    assert all(Path(origin).is_relative_to(unpacked) for origin in origins.values())
