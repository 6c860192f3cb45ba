"""A Python process that has every installed package except videoxl."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SITE_PACKAGES = Path(torch.__file__).parents[1]


@pytest.fixture(scope="session")
def packages_without_videoxl(tmp_path_factory) -> Path:
    """A folder of links to everything installed, videoxl and its editable finder left out."""
    folder = tmp_path_factory.mktemp("site-packages")
    for entry in SITE_PACKAGES.iterdir():
        if "videoxl" not in entry.name.lower() and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def run_clean(packages_without_videoxl, tmp_path) -> Callable[..., str]:
    """
    Runs a program in a process of its own and gives what it printed; fails with what it said if it fails.

    The process starts in an empty folder with neither site-packages (-S) nor the caller's environment's paths (-I), so
    that only `paths` and the links above can be imported.
    """

    def run(program: str, *arguments: object, paths: tuple[Path, ...] = ()) -> str:
        search = [*map(str, paths), str(packages_without_videoxl)]
        start_up = f"import sys; sys.path[:0] = {search!r}\n"
        start = tmp_path / "elsewhere"
        start.mkdir(exist_ok=True)
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf_home"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", start_up + program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=start,
            env=environment,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
