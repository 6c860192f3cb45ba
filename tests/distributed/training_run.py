"""One process of a training run over random films; see `test_distributed.py`. Arguments: settings, result (JSON)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from videoxl.training.run import run_training


def rows(windows):
    """Rows about films of so many windows of 12 frames; 0 is a text without a film."""
    drawn = []
    for index, count in enumerate(windows):
        asked = f"{'<image>' if count else ''}\nWhat is {index}?"
        answer = f"It is {index}." * (index + 1)
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        row = {"id": str(index), "conversations": turns}
        if count:
            row["video"] = np.random.default_rng(index).integers(0, 256, (12 * count, 60, 60, 3), dtype=np.uint8)
        drawn.append(row)
    return drawn


def main(settings_file, result_file):
    settings = json.loads(Path(settings_file).read_text())
    windows = settings.pop("windows")
    trainer = run_training(settings, train_rows=rows(windows))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    summary = {"losses": losses, "processes": trainer.accelerator.num_processes}
    if trainer.is_world_process_zero():
        Path(result_file).write_text(json.dumps(summary))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
