"""The recipe of the small checkpoint, from nothing: `python -m videoxl.training.tiny_recipe --output DIR`.

Stages follow each other as configs/tiny.yaml lists them: a tokenizer, an untrained Qwen2 and an untrained vision
tower, assembled to a Video-XL; its language model and VSTs on films spelled in words, and beside that, in a process of
its own, the vision tower on single frames; the projector between the two; then the language model and its VSTs again,
on films put together from frames that the tower has seen. A stage that is finished is not run again, and one that was
stopped goes on from its last checkpoint.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.models.clip.modeling_clip import CLIPVisionModel

from videoxl.synthetic.tasks import sentences

from .assembly import assemble
from .run import CONFIGS, last_checkpoint, read_config, run_training
from .tiny_album import AlbumFrames, AlbumTrainer
from .tiny_data import SingleFrames, TaskRows
from .tiny_parts import (
    CHAT_WORDS,
    PLAIN_ATTENTION,
    FrameCollator,
    FrameReader,
    image_processor,
    text_config,
    train_tokenizer,
    vision_config,
)
from .tiny_record import write_record
from .tiny_start import start_attention, start_beacons
from .tiny_words import FrameSpeller, SpelledTrainer

FINISHED = "finished.json"
RECIPE = "recipe.json"
SPEAKING = ["language_model", "beacons", "lm_head"]


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
        self._trained: list[str] = []  # stages behind the first ones, in their order
        self._take_cores: Callable[[], Any] = lambda: None  # that another stage's process has left

    def run(self) -> Path:
        """
        Runs what is left to do.

        Returns:
            `Path`: the checkpoint.

        Raises:
            ValueError: if `output` holds stages of another recipe or seed.
        """
        self._check_same_recipe()
        self.stage("parts", self._make_parts)
        self.stage("assembled", self._assemble)
        with self._beside("vision"):
            before = self._films("spelled", "assembled")
        before = self._see(before)
        before = self._films("album", before)
        self.stage("checkpoint", partial(self._finish, before=before))
        return self.output / "checkpoint"

    def _films(self, kind: str, before: str) -> str:
        """The stages of one kind; gives the last one's name."""
        for number, stage in enumerate(self.settings[kind]):
            name = f"{kind}-{number}-{stage['name']}"
            self.stage(name, partial(self._train, stage=stage, before=before, number=number, kind=kind))
            self._trained.append(before := name)
        return before

    def _see(self, before: str) -> str:
        """The stages in which frames learn to be seen as their words; gives the last one's name."""
        for number, stage in enumerate(self.settings["seeing"]):
            name = f"seeing-{number}-{stage['name']}"
            tower = self.output / "vision" / "tower" if number == 0 else None
            self.stage(name, partial(self._train_seeing, stage=stage, before=before, number=number, tower=tower))
            self._trained.append(before := name)
        return before

    @contextlib.contextmanager
    def _beside(self, name: str) -> Iterator[None]:
        """
        Runs the stage in a process of its own while the block runs, each on half of the cores: models of this size
        gain little from a second one. Once it has ended, the stages that are still to come get all.
        """
        if (self.output / name / FINISHED).is_file():
            yield
            return
        cores = torch.get_num_threads()
        half = str(max(1, cores // 2))
        command = [sys.executable, "-m", __spec__.name, "--output", str(self.output), "--only", name]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": half})
        torch.set_num_threads(int(half))
        self._take_cores = lambda: process.poll() is not None and torch.set_num_threads(cores)
        try:
            yield
            if process.wait():
                raise RuntimeError(f"stage {name} ended with {process.returncode}: what it said stands above")
        finally:
            process.terminate()
            process.wait()
            torch.set_num_threads(cores)

    def _check_same_recipe(self) -> None:
        path = self.output / RECIPE
        recipe = {"seed": self.seed, "settings": self.settings}
        if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(recipe)):
            raise ValueError(f"{self.output} holds another recipe or seed: give an empty folder, or remove it")
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=1))

    def stage(self, name: str, run: Callable[[Path], Any]) -> None:
        """Runs a stage, unless it has been run to its end."""
        folder = self.output / name
        if (folder / FINISHED).is_file():
            return
        print(f"Stage {name}", flush=True)
        self._take_cores()
        start = time.time()
        told = run(folder)
        (folder / FINISHED).write_text(json.dumps({"seconds": round(time.time() - start, 1), **(told or {})}))

    def run_vision(self) -> None:
        """The stage that runs beside others."""
        self.stage("vision", self._train_vision)

    def _make_parts(self, folder: Path) -> None:
        texts = sentences("train", self.settings["tokenizer_films"])
        tokenizer = train_tokenizer(f"{CHAT_WORDS}\n{text}" for text in texts)
        tokenizer.save_pretrained(folder / "text")
        set_seed(self.seed)
        config = text_config(len(tokenizer), **self.settings["text"])
        model = Qwen2ForCausalLM(config)
        start_attention(model, self.seed)
        model.save_pretrained(folder / "text")
        tower = CLIPVisionModel._from_config(vision_config(**self.settings["vision"]["tower"]))
        tower.save_pretrained(folder / "tower")
        image_processor().save_pretrained(folder / "tower")

    def _train_vision(self, folder: Path) -> dict:
        stage = self.settings["vision"]
        set_seed(self.seed)
        reader = FrameReader(vision_config(**stage["tower"]))
        rows = SingleFrames(stage["steps"] * stage["batch_size"], self.seed, practice=stage["practice"])
        log = self._train_on_frames(reader, rows, stage, folder)
        reader.vision_tower.save_pretrained(folder / "tower")
        return log

    def _train_on_frames(self, model: nn.Module, rows: SingleFrames, stage: dict[str, Any], folder: Path) -> dict:
        arguments = TrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=stage["steps"],
            per_device_train_batch_size=stage["batch_size"],
            **self._common(),
            **stage["training"],
        )
        trainer = FrameTrainer(model=model, args=arguments, train_dataset=rows, data_collator=FrameCollator())
        trainer.train(resume_from_checkpoint=_checkpoint_of(folder / "run"))
        return {"log": trainer.state.log_history}

    def _train_seeing(self, folder: Path, stage: dict[str, Any], before: str, number: int, tower: Path | None) -> dict:
        set_seed(self.seed)
        start = self.output / before / "model"
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation=PLAIN_ATTENTION)
        processor = AutoProcessor.from_pretrained(start)
        if tower is not None:
            model.model.vision_tower.load_state_dict(CLIPVisionModel.from_pretrained(tower).state_dict())
        rows = SingleFrames(stage["steps"] * stage["batch_size"], self.seed + 1 + number, practice=stage["practice"])
        log = self._train_on_frames(FrameSpeller(model, processor.tokenizer, stage["parts"]), rows, stage, folder)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        return log

    def _common(self) -> dict[str, Any]:
        # transformers wants it said before it computes in bfloat16 on a CPU.
        place = {"use_cpu": not torch.cuda.is_available()}
        return {**self.settings["trainer"], **place, "seed": self.seed, "remove_unused_columns": False}

    def _assemble(self, folder: Path) -> None:
        assemble(
            str(self.output / "parts" / "text"),
            str(self.output / "parts" / "tower"),
            str(folder / "model"),
            seed=self.seed,
            **self.settings["assembly"],
        )
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        start_beacons(model, self.seed)
        model.save_pretrained(folder / "model")

    def _train(self, folder: Path, stage: dict[str, Any], before: str, number: int, kind: str) -> dict:
        """Films spelled in words, or of an album's frames."""
        model = self.output / before / "model"
        album = kind == "album"
        rows = TaskRows(
            batches=stage["steps"],
            batch_size=stage["batch_size"],
            frames=tuple(stage["frames"]),
            questions=stage["questions"],
            seed=self.seed * 100 + number + 50 * album,
            **{name: stage[name] for name in ("families", "cards", "captions", "ways") if name in stage},
        )
        config = {
            **self._common(),
            "model": str(model),
            "attn_implementation": PLAIN_ATTENTION,
            "output_dir": str(folder / "run"),
            "max_steps": stage["steps"],
            "per_device_train_batch_size": stage["batch_size"],
            "train_sampling_strategy": "sequential",
            "max_frames": stage["frames"][1],
            "curriculum": [{"ratios": stage["ratios"]}],
            "trained_parts": SPEAKING,
            **stage["training"],
        }
        resume = _checkpoint_of(folder / "run") is not None
        trainer_class = SpelledTrainer
        if album:
            frames = AlbumFrames(**stage["album"], seed=self.seed * 100 + number)
            trainer_class = partial(AlbumTrainer, frames=frames, blur=stage["blur"])
        trainer = run_training(config, resume=resume, train_rows=rows, trainer_class=trainer_class)
        trainer.save_model(str(folder / "model"))
        return {"log": trainer.state.log_history}

    def _finish(self, folder: Path, before: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(self.output / before / "model")
        model.save_pretrained(folder)
        AutoProcessor.from_pretrained(self.output / before / "model").save_pretrained(folder)
        write_record(self.output, ["vision", *self._trained], FINISHED)


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
    parser.add_argument("--only", choices=["vision"], help="of a recipe that runs, the stage beside the others")
    arguments = parser.parse_args(argv)
    try:
        if arguments.only:
            begun = json.loads((arguments.output / RECIPE).read_text())
            Recipe(begun["settings"], arguments.output, begun["seed"]).run_vision()
            return 0
        checkpoint = Recipe(read_config(arguments.config), arguments.output, arguments.seed).run()
    except KeyboardInterrupt as stopped:
        print(f"Stopped. {stopped} The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"The checkpoint is {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
