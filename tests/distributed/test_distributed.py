"""Training on two processes, of this machine's CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_step import lesson, prepare

from tests.conftest import ROOT
from videoxl import VideoXLForCausalLM

HERE = Path(__file__).parent
SECONDS = 120  # a dead-lock ends the test instead of holding it up
ACCELERATE = ["accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def run(*command):
    """`python -m command`, one thread per process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(command, env=environment, timeout=SECONDS, capture_output=True, text=True, cwd=ROOT)


def train(folder, launch, settings):
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({**settings, "output_dir": str(folder / "run")}))
    done = run(*ACCELERATE, *launch, HERE / "training_run.py", folder / "settings.json", folder / "result.json")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "result.json").read_text())


def test_two_processes_learn_what_one_learns(checkpoint, tmp_path):
    """Batches of two rows on one process, of one row on each of two: films of one to five windows, and a text."""
    settings = {
        "model": str(checkpoint),
        "windows": [1, 5, 0, 2, 3, 1, 4, 2],
        "max_steps": 10,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    alone = train(
        tmp_path / "alone", ["--cpu", "--num_processes", "1"], {**settings, "per_device_train_batch_size": 2}
    )
    two = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    both = train(tmp_path / "both", two, {**settings, "per_device_train_batch_size": 1})
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert len(alone["losses"]) == 10
    assert alone["losses"][-1] < alone["losses"][0] - 1
    assert both["losses"] == pytest.approx(alone["losses"], abs=1e-4)


@pytest.mark.parametrize("kind", ["plain", "recomputed layers", "text recomputed"])
def test_sharded_weights_with_one_window_here_and_five_there(kind, checkpoint, tmp_path):
    """A film of one window, or a text, on one process, a film of five on the other: the step ends, and its gradients
    are the mean of those that each of the two has alone."""
    result = tmp_path / "step.safetensors"
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run(*launch, HERE / "sharded_step.py", checkpoint, result, kind)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(result)
    model = prepare(VideoXLForCausalLM.from_pretrained(checkpoint), kind)
    lessons = [lesson(model, rank, text_only="text" in kind and rank == 0) for rank in (0, 1)]
    losses = [model(**arguments).loss for arguments in lessons]
    (sum(losses) / 2).backward()
    model.eval()
    with torch.no_grad():
        evaluated = [model(**arguments).loss for arguments in lessons]
    expected = torch.stack((torch.stack(losses).detach(), torch.stack(evaluated)), dim=1)
    torch.testing.assert_close(found.pop("losses"), expected, atol=1e-5, rtol=0)
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert wanted.keys() <= found.keys()
    for name, value in found.items():
        expected = wanted.get(name, torch.zeros_like(value))
        assert (value - expected).norm() <= 1e-4 * expected.norm() + 1e-6, name
