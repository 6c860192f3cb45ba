"""The recipe of the small checkpoint, from nothing: `python -m videoxl.training.tiny_recipe --output DIR`.

Stages follow each other as configs/tiny.yaml lists them: a tokenizer and a vision tower that reads single frames, an
untrained Qwen2 assembled with it to a Video-XL, the projector, then everything, on longer and longer films. A stage
that is finished is not run again, and one that was stopped goes on from its last checkpoint.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed

from videoxl.synthetic.tasks import sentences

from .assembly import assemble
from .run import CONFIGS, last_checkpoint, read_config, run_training
from .tiny_data import SingleFrames, TaskRows
from .tiny_parts import (
    CHAT_WORDS,
    FrameCollator,
    FrameReader,
    image_processor,
    text_config,
    train_tokenizer,
    vision_config,
)
from .tiny_start import start_attention

FINISHED = "finished.json"


class FrameTrainer(Trainer):
    """Rows in their order: they are drawn at random already."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Recipe:
    """
    Args:
        settings: of configs/tiny.yaml.
        output: folder of all stages; the checkpoint is `output/checkpoint`.
        seed: of weights, films and ratios.
    """

    def __init__(self, settings: dict[str, Any], output: Path, seed: int):
        self.settings, self.output, self.seed = settings, output, seed

    def run(self) -> Path:
        """
        Runs what is left to do.

        Returns:
            `Path`: the checkpoint.

        Raises:
            ValueError: if `output` holds stages of another recipe or seed.
        """
        self._check_same_recipe()
        self._stage("parts", self._make_parts)
        self._stage("vision", self._train_vision)
        self._stage("assembled", self._assemble)
        before = "assembled"
        for number, stage in enumerate(self.settings["films"]):
            name = f"films-{number}-{stage['name']}"
            self._stage(name, partial(self._train, stage=stage, before=before, number=number))
            before = name
        self._stage("checkpoint", partial(self._finish, before=before))
        return self.output / "checkpoint"

    def _check_same_recipe(self) -> None:
        path = self.output / "recipe.json"
        recipe = {"seed": self.seed, "settings": self.settings}
        if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(recipe)):
            raise ValueError(f"{self.output} holds another recipe or seed: give an empty folder, or remove it")
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=1))

    def _stage(self, name: str, run: Callable[[Path], Any]) -> None:
        folder = self.output / name
        if (folder / FINISHED).is_file():
            return
        print(f"Stage {name}", flush=True)
        start = time.time()
        told = run(folder)
        (folder / FINISHED).write_text(json.dumps({"seconds": round(time.time() - start, 1), **(told or {})}))

    def _make_parts(self, folder: Path) -> None:
        texts = sentences("train", self.settings["tokenizer_films"])
        tokenizer = train_tokenizer(f"{CHAT_WORDS}\n{text}" for text in texts)
        tokenizer.save_pretrained(folder / "text")
        set_seed(self.seed)
        config = text_config(len(tokenizer), **self.settings["text"])
        model = Qwen2ForCausalLM(config)
        start_attention(model, self.seed)
        model.save_pretrained(folder / "text")

    def _train_vision(self, folder: Path) -> dict:
        stage = self.settings["vision"]
        set_seed(self.seed)
        reader = FrameReader(vision_config(**stage["tower"]))
        rows = SingleFrames(stage["steps"] * stage["batch_size"], self.seed)
        arguments = TrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=stage["steps"],
            per_device_train_batch_size=stage["batch_size"],
            **self._common(),
            **stage["training"],
        )
        trainer = FrameTrainer(model=reader, args=arguments, train_dataset=rows, data_collator=FrameCollator())
        trainer.train(resume_from_checkpoint=_checkpoint_of(folder / "run"))
        reader.vision_tower.save_pretrained(folder / "tower")
        image_processor().save_pretrained(folder / "tower")
        return {"log": trainer.state.log_history}

    def _common(self) -> dict[str, Any]:
        return {**self.settings["trainer"], "seed": self.seed, "remove_unused_columns": False}

    def _assemble(self, folder: Path) -> None:
        assemble(
            str(self.output / "parts" / "text"),
            str(self.output / "vision" / "tower"),
            str(folder / "model"),
            seed=self.seed,
            **self.settings["assembly"],
        )

    def _train(self, folder: Path, stage: dict[str, Any], before: str, number: int) -> dict:
        model = self.output / before / "model"
        rows = TaskRows(
            batches=stage["steps"],
            batch_size=stage["batch_size"],
            frames=tuple(stage["frames"]),
            questions=stage["questions"],
            seed=self.seed * 100 + number,
            **{name: stage[name] for name in ("families", "cards") if name in stage},
            processor=AutoProcessor.from_pretrained(model),
        )
        config = {
            **self._common(),
            "model": str(model),
            "output_dir": str(folder / "run"),
            "max_steps": stage["steps"],
            "per_device_train_batch_size": stage["batch_size"],
            "train_sampling_strategy": "sequential",
            "max_frames": stage["frames"][1],
            "curriculum": [{"ratios": stage["ratios"]}],
            **stage["training"],
        }
        trainer = run_training(config, resume=_checkpoint_of(folder / "run") is not None, train_rows=rows)
        trainer.save_model(str(folder / "model"))
        return {"log": trainer.state.log_history}

    def _finish(self, folder: Path, before: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(self.output / before / "model")
        model.save_pretrained(folder)
        AutoProcessor.from_pretrained(self.output / before / "model").save_pretrained(folder)


def _checkpoint_of(folder: Path) -> str | None:
    try:
        return last_checkpoint(folder)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)  # what a run left that was stopped before its first checkpoint
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the recipe; stopped by Ctrl-C, the same command goes on where it was."""
    parser = argparse.ArgumentParser(prog="python -m videoxl.training.tiny_recipe", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of all stages")
    parser.add_argument("--config", default=str(CONFIGS / "tiny.yaml"), help="the recipe (default: the package's)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        checkpoint = Recipe(read_config(arguments.config), arguments.output, arguments.seed).run()
    except KeyboardInterrupt as stopped:
        print(f"Stopped. {stopped} The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"The checkpoint is {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
