"""Teaches the small checkpoint when cards were shown: `python -m videoxl.training.tiny_time --output DIR`.

Clocks are set into its spare heads, see `tiny_clocks.py`; then its last two layers learn to say what those tell, on
films spelled in words, and on films of an album's pictures. All before them rests: trained along, it unlearned within
some hundred steps to find what was asked for.

A stage that is finished is not run again, and one that was stopped goes on from its last checkpoint.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, set_seed

import videoxl

from .run import last_checkpoint, read_config, run_training
from .tiny_album import AlbumFrames, AlbumTrainer
from .tiny_clocks import READOUT, graft
from .tiny_data import TaskRows
from .tiny_parts import PLAIN_ATTENTION
from .tiny_words import SpelledTrainer

FAMILIES = ("time", "retrieval")
WAYS = ("open", "words, then letter")
RATIOS = [4, 8, 16]
LEARNING = (READOUT - 1, READOUT)  # layers
FIRST_SEED = 70  # of the films: none that the recipe's stages show at its seeds below this

WORDS = {"frames": (12, 128), "batch_size": 8, "questions": 16, "share": 0.85, "learning_rate": 1e-3}
PICTURES = {"frames": (12, 128), "batch_size": 8, "questions": 16, "share": 0.15, "learning_rate": 3e-4}
ALBUM = {"looks": 12, "scenes": 400}
BLUR = 0.1


class LastLayers:
    """A trainer for the last two layers alone, in front of [`SpelledTrainer`] or a child of it."""

    def __init__(self, *, model: nn.Module, **kwargs: Any):
        learning = tuple(f"language_model.layers.{number}." for number in LEARNING)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in learning))
        super().__init__(model=model, **kwargs)


class LastLayersInWords(LastLayers, SpelledTrainer):
    """On films spelled in words."""


class LastLayersInPictures(LastLayers, AlbumTrainer):
    """On films of an album's frames."""


class TimeCourse:
    """
    Args:
        model: folder of the checkpoint to start from.
        output: folder of all stages; the checkpoint is `output/checkpoint`.
        steps: of training, both stages together.
        seed: of the films.
        films: that each clock's fit takes at least, see [`graft`].
        album: settings of [`AlbumFrames`].

    Raises:
        ValueError: for fewer than two steps, or an `output` begun with other settings.
    """

    def __init__(
        self,
        model: str,
        output: Path,
        steps: int,
        seed: int,
        films: int = 60,
        album: dict[str, int] = ALBUM,
    ):
        if steps < 2:
            raise ValueError(f"steps={steps}: there are two stages, of one step at least")
        self.model, self.output, self.steps, self.seed = model, output, steps, seed
        self.films, self.album = films, album
        self.stages = {"clocks": self._set_clocks, "words": self._in_words, "pictures": self._in_pictures}

    def run(self) -> Path:
        """
        Runs what is left to do.

        Returns:
            `Path`: the checkpoint.
        """
        self._check_same()
        for name, stage in self.stages.items():
            folder = self.output / name
            if not (folder / "finished").is_file():
                stage(folder)
                (folder / "finished").touch()
        checkpoint = self.output / "checkpoint"
        for kind in (AutoModelForCausalLM, AutoProcessor):
            kind.from_pretrained(self.output / "pictures" / "model").save_pretrained(checkpoint)
        return checkpoint

    def _check_same(self) -> None:
        path = self.output / "time.json"
        given = {"model": str(self.model), "steps": self.steps, "seed": self.seed}
        if path.is_file() and json.loads(path.read_text()) != given:
            raise ValueError(f"{self.output} was begun with other settings, see {path}: give another folder")
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(given))

    def _set_clocks(self, folder: Path) -> None:
        set_seed(self.seed)
        model = AutoModelForCausalLM.from_pretrained(self.model, attn_implementation=PLAIN_ATTENTION)
        processor = AutoProcessor.from_pretrained(self.model)
        graft(model, processor, self.films)
        for part in (model, processor):
            part.save_pretrained(folder / "model")

    def _in_words(self, folder: Path) -> None:
        self._train(folder, "clocks", WORDS, 0, LastLayersInWords)

    def _in_pictures(self, folder: Path) -> None:
        frames = AlbumFrames(**self.album, seed=FIRST_SEED + self.seed)
        self._train(folder, "words", PICTURES, 1, partial(LastLayersInPictures, frames=frames, blur=BLUR))

    def _train(self, folder: Path, before: str, stage: dict[str, Any], number: int, trainer_class: Any) -> None:
        steps = max(1, round(self.steps * stage["share"]))
        rows = TaskRows(
            steps,
            stage["batch_size"],
            stage["frames"],
            stage["questions"],
            (FIRST_SEED + self.seed) * 100 + number,
            families=FAMILIES,
            captions=0.05,
            ways=WAYS,
        )
        config = {
            **read_config("tiny")["trainer"],
            "model": str(self.output / before / "model"),
            "attn_implementation": PLAIN_ATTENTION,
            "output_dir": str(folder / "run"),
            "max_steps": steps,
            "per_device_train_batch_size": stage["batch_size"],
            "train_sampling_strategy": "sequential",
            "max_frames": stage["frames"][1],
            "curriculum": [{"ratios": RATIOS}],
            "trained_parts": ["language_model", "beacons"],
            "learning_rate": stage["learning_rate"],
            "lr_scheduler_type": "linear",
            "warmup_steps": min(10, steps - 1),
            "bf16": True,
            "use_cpu": True,
            "seed": self.seed,
            "remove_unused_columns": False,
        }
        resume = _has_checkpoint(folder / "run")
        trainer = run_training(config, resume=resume, train_rows=rows, trainer_class=trainer_class)
        trainer.save_model(str(folder / "model"))


def _has_checkpoint(folder: Path) -> bool:
    try:
        last_checkpoint(folder)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)  # what a run left that was stopped before its first checkpoint
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; stopped by Ctrl-C, the same command goes on where it was."""
    parser = argparse.ArgumentParser(prog="python -m videoxl.training.tiny_time", description=__doc__)
    parser.add_argument("--model", default=str(videoxl.tiny_checkpoint()), help="(default: videoxl-tiny)")
    parser.add_argument("--output", type=Path, required=True, help="folder of all stages")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not Path(arguments.model).is_dir():
        parser.error(f"--model {arguments.model}: there is no such folder; give one of a small checkpoint")
    if arguments.output.is_file():
        parser.error(f"--output {arguments.output} is a file: give a folder")
    try:
        checkpoint = TimeCourse(arguments.model, arguments.output, arguments.steps, arguments.seed).run()
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as wrong:
        parser.error(str(wrong))
    print(f"The checkpoint is {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
