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
from transformers import CLIPVisionModel, Qwen2ForCausalLM, pipeline

import videoxl.tiny as tiny_place
from videoxl.convert.checkpoint_conversion import convert_checkpoint
from videoxl.synthetic.tasks import sentences
from videoxl.training import tiny_parts
from videoxl.training.assembly import assemble

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "fixtures" / "authors_tiny"
CHECKPOINT = GOLDENS / "checkpoint"
NO_GPU = "needs a GPU"

sys.path.insert(0, str(ROOT))  # for `benchmarks`, which is no part of the package


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped without one")
    torch.set_num_threads(min(2, os.cpu_count() or 1))


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
def tiny(tmp_path_factory):
    """The small checkpoint's folder; while none ships, that of one like it with random weights, put in its place."""
    if tiny_place.FOLDER.is_dir():
        yield tiny_place.FOLDER
        return
    folder = tmp_path_factory.mktemp("shipped") / "videoxl_tiny"
    _assemble_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_place, "FOLDER", folder)
        yield folder


def _assemble_tiny(folder):
    torch.manual_seed(0)
    tokenizer = tiny_parts.train_tokenizer(sentences("train", 20))
    text, tower = folder.parent / "text", folder.parent / "tower"
    tokenizer.save_pretrained(text)
    Qwen2ForCausalLM(tiny_parts.text_config(len(tokenizer), 64, 1)).save_pretrained(text)
    CLIPVisionModel(tiny_parts.vision_config(32, 1)).save_pretrained(tower)
    tiny_parts.image_processor().save_pretrained(tower)
    assemble(text, tower, folder, window=144, feature_layer=-1)
