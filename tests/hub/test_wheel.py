"""The wheel holds every package and module of the tree, and imports from somewhere else."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders with Python files that are no part of the package.
NOT_PACKAGED = {"tests", "benchmarks"}
DATA_SUFFIXES = {".json", ".jinja", ".md", ".txt", ".typed", ".yaml"}

IMPORT_EVERYTHING = """
import importlib, json, sys
names = json.loads(sys.argv[1])
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""


def root_packages() -> list[Path]:
    return sorted(init.parent for init in ROOT.glob("*/__init__.py") if init.parent.name not in NOT_PACKAGED)


def installed_path(file: Path) -> str:
    inside = file.relative_to(ROOT)
    return str(inside if inside.parts[0] == "videoxl" else Path("videoxl") / inside)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel of a clean copy of the tree, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "tree").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    for package in root_packages():
        shutil.copytree(package, folder / "tree" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "tree"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("videoxl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_holds_what_the_tree_holds(unpacked):
    files = [file for package in root_packages() for file in package.rglob("*") if "__pycache__" not in file.parts]
    expected = {installed_path(file) for file in files if file.suffix in {".py", *DATA_SUFFIXES}}
    built = {str(file.relative_to(unpacked)) for file in (unpacked / "videoxl").rglob("*") if file.is_file()}
    assert built == expected


def test_every_module_imports_from_the_wheel(unpacked, run_clean):
    modules = [str(file.relative_to(unpacked).with_suffix("")) for file in (unpacked / "videoxl").rglob("*.py")]
    names = sorted(module.removesuffix("/__init__").replace("/", ".") for module in modules)
    origins = json.loads(run_clean(IMPORT_EVERYTHING, json.dumps(names), paths=(unpacked,)))
    assert sorted(origins) == names
    assert all(Path(origin).is_relative_to(unpacked) for origin in origins.values())
