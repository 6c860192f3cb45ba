"""What all tests share. Skips are for a missing GPU alone: any other one fails the run."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or threads spin against other processes on the same cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from videoxl import tiny_checkpoint
from videoxl.convert.checkpoint_conversion import convert_checkpoint

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "fixtures" / "authors_tiny"
CHECKPOINT = GOLDENS / "checkpoint"
NO_GPU = "needs a GPU"

sys.path.insert(0, str(ROOT))  # for `benchmarks`, which is no part of the package


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped without one")
    side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(2, (os.cpu_count() or 1) // side_by_side)))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and NO_GPU not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"Skipped, but only a missing GPU is a reason to: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(f"Skipped for want of a GPU: {len(skipped)}")
    for report in skipped:
        terminalreporter.write_line(f"  {report.nodeid}")


@pytest.fixture(scope="session")
def golden_cases():
    """The golden cases by name."""
    return {case["name"]: case for case in json.loads((GOLDENS / "cases.json").read_text())}


@pytest.fixture(scope="session")
def golden_tensors():
    """All golden tensors, as `NAME.what`."""
    return load_file(GOLDENS / "cases.safetensors")


@pytest.fixture(scope="session")
def authors_checkpoint():
    """The small checkpoint in the authors' layout; its `clip` folder stands for the vision tower's repository."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def checkpoint(authors_checkpoint, tmp_path_factory):
    """The goldens' checkpoint, converted; its generation_config.json samples, as the published one does."""
    dest = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(authors_checkpoint, dest, vision_tower=authors_checkpoint / "clip")
    assert json.loads((dest / "generation_config.json").read_text())["do_sample"] is True
    return dest


@pytest.fixture(scope="session")
def pipe(checkpoint):
    return pipeline("video-question-answering", model=str(checkpoint), device="cpu")


@pytest.fixture(scope="session")
def tiny():
    """The small checkpoint's folder."""
    return tiny_checkpoint()
