"""The recipe of the small checkpoint, from nothing: `python -m videoxl.training.tiny_recipe --output DIR`.

Stages follow each other as configs/tiny.yaml lists them: a tokenizer, an untrained Qwen2 and an untrained vision
tower, assembled to a Video-XL; its language model and VSTs on films spelled in words, and beside that, in a process of
its own, the vision tower on single frames; the projector between the two; then the language model and its VSTs again,
on films put together from frames that the tower has seen. Models of this size gain little from a second core: so what
is left of the vision tower's stage then, and those behind it, run in several processes, each on its share of every
batch. At the end the model is widened, and what finds times, orders and numbers is set in closed form.

A stage that is finished is not run again, and one that was stopped goes on from its last checkpoint. Settings of
stages that have not begun may be changed.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2ForCausalLM, Trainer, set_seed
from transformers.models.clip.modeling_clip import CLIPVisionModel

from videoxl.synthetic.tasks import sentences

from .arguments import VideoXLTrainingArguments
from .assembly import assemble
from .callbacks import LOG_NAME, RunLog, read_log
from .run import CONFIGS, last_checkpoint, read_config, run_training
from .tiny_album import AlbumFrames, AlbumTrainer, encode_album
from .tiny_circuits import Circuits, shown_by
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
from .tiny_processes import beside, run_together
from .tiny_record import write_record
from .tiny_start import start_attention, start_beacons
from .tiny_words import FrameSpeller, SpelledTrainer

FINISHED = "finished.json"
RECIPE = "recipe.json"
SPEAKING = ["language_model", "beacons", "lm_head"]
CIRCUITS = "circuits"  # the stage before the last, which a recipe may leave out
SETTINGS = ("tokenizer_films", "text", "assembly", "trainer", "vision", "spelled", "seeing", "album")


class RecipeError(ValueError):
    """Settings are no recipe's, or a folder cannot take it: it holds stages of another recipe or seed."""


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
        processes: at most so many share the batches of a stage; by default one for each core, on a GPU one.

    Raises:
        RecipeError: if settings are missing, or `output` is a file.
    """

    def __init__(self, settings: dict[str, Any], output: Path, seed: int, processes: int | None = None):
        if missing := [name for name in SETTINGS if name not in settings]:
            raise RecipeError(f"the configuration is no recipe: it lacks {', '.join(missing)}; see configs/tiny.yaml")
        if output.is_file():
            raise RecipeError(f"{output} is a file: give a folder")
        self.settings, self.output, self.seed = settings, output, seed
        self.processes = processes or (1 if torch.cuda.is_available() else torch.get_num_threads())
        runs = {"spelled": self._train, "seeing": self._train_seeing, "album": self._train}
        self._stages = {"parts": self._make_parts, "assembled": self._assemble, "vision": self._train_vision}
        self._trained = ["vision"]
        before = "assembled"
        for name, kind, number, stage in _film_stages(settings):
            self._stages[name] = partial(runs[kind], stage=stage, before=before, number=number, kind=kind)
            self._trained.append(before := name)
        if CIRCUITS in settings:
            self._stages[CIRCUITS] = partial(self._set_circuits, before=before)
            before = CIRCUITS
        self._stages["checkpoint"] = partial(self._finish, before=before)

    def run(self) -> Path:
        """
        Runs what is left to do.

        Returns:
            `Path`: the checkpoint.

        Raises:
            RecipeError: if `output` holds stages of another recipe or seed.
        """
        self._check_same_recipe()
        self.stage("parts")
        self.stage("assembled")
        spelled = [name for name, kind, *_ in _film_stages(self.settings) if kind == "spelled"]
        with nullcontext(bool) if self._finished("vision") else beside(self.stage, "vision") as vision_runs:
            for name in spelled:
                vision_runs()
                self._apart(name, 1)
        self._apart("vision", self._shares(self.settings["vision"]))  # what of it is left, on all cores
        for name, kind, _, stage in _film_stages(self.settings):
            if kind != "spelled":
                self._apart(name, self._shares(stage))
        if CIRCUITS in self._stages:
            self._apart(CIRCUITS, 1)
        self.stage("checkpoint")
        return self.output / "checkpoint"

    def _shares(self, stage: dict[str, Any]) -> int:
        """How many processes take equal shares of a stage's batches."""
        return max(count for count in range(1, self.processes + 1) if stage["batch_size"] % count == 0)

    def _apart(self, name: str, processes: int) -> None:
        """
        A stage in processes with equal shares of its batches. Where several may be, one is a process of its own, too:
        it takes with it what it held of memory, which later stages need.
        """
        if self.processes == 1:
            self.stage(name)
        elif not self._finished(name):
            run_together(processes, self.stage, name)
        self._check_ended(name)

    def _check_ended(self, name: str) -> None:
        """A process that was interrupted says nothing of it."""
        if not self._finished(name):
            raise KeyboardInterrupt(f"Stage {name} was stopped.")

    def _check_same_recipe(self) -> None:
        path = self.output / RECIPE
        recipe = {"seed": self.seed, "settings": self.settings}
        if path.is_file():
            self._check_begun(json.loads(path.read_text()), json.loads(json.dumps(recipe)))
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=1))

    def _check_begun(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """What has begun, and all before it, must be as it was."""
        stages = _told_apart(old["settings"])
        same = [*takewhile(lambda pair: pair[0] == pair[1], zip(stages, _told_apart(new["settings"])))]
        changed = [name for name, _ in stages[len(same) if old["seed"] == new["seed"] else 0 :]]
        if begun := [name for name in changed if (self.output / name).exists()]:
            raise RecipeError(
                f"{self.output} holds stages of another recipe or seed: {', '.join(begun)}; remove them, or give an "
                "empty folder"
            )

    def _finished(self, name: str) -> bool:
        return (self.output / name / FINISHED).is_file()

    def stage(self, name: str) -> None:
        """Runs a stage, unless it has been run to its end; in each of its processes."""
        folder = self.output / name
        if self._finished(name):
            return
        if _is_first():
            print(f"Stage {name}", flush=True)
        start = time.time() - _spent(folder / "run")
        told = self._stages[name](folder)
        if _is_first():
            whole = folder / f"{FINISHED}.part"  # whoever is ended while it is written is not finished
            whole.write_text(json.dumps({"seconds": round(time.time() - start, 1), **(told or {})}))
            whole.replace(folder / FINISHED)

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
        if _is_first():
            reader.vision_tower.save_pretrained(folder / "tower")
        return log

    def _train_on_frames(self, model: nn.Module, rows: SingleFrames, stage: dict[str, Any], folder: Path) -> dict:
        arguments = VideoXLTrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=stage["steps"],
            per_device_train_batch_size=_share(stage["batch_size"]),
            **self._common(),
            **stage["training"],
        )
        trainer = FrameTrainer(
            model=model, args=arguments, train_dataset=rows, data_collator=FrameCollator(), callbacks=[RunLog()]
        )
        trainer.train(resume_from_checkpoint=_checkpoint_of(folder / "run"))
        return {"log": trainer.state.log_history}

    def _train_seeing(self, folder: Path, stage: dict[str, Any], before: str, number: int, kind: str) -> dict:
        """Frames, seen as their words."""
        set_seed(self.seed)
        start = self.output / before / "model"
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation=PLAIN_ATTENTION)
        processor = AutoProcessor.from_pretrained(start)
        if number == 0:
            tower = CLIPVisionModel.from_pretrained(self.output / "vision" / "tower")
            model.model.vision_tower.load_state_dict(tower.state_dict())
        rows = SingleFrames(stage["steps"] * stage["batch_size"], self.seed + 1 + number, practice=stage["practice"])
        log = self._train_on_frames(FrameSpeller(model, processor.tokenizer, stage["parts"]), rows, stage, folder)
        if _is_first():
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
            "per_device_train_batch_size": _share(stage["batch_size"]),
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

    def _set_circuits(self, folder: Path, before: str) -> None:
        start = self.output / before / "model"
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation=PLAIN_ATTENTION)
        processor = AutoProcessor.from_pretrained(start)
        frames = AlbumFrames(**self.settings[CIRCUITS]["album"], seed=self.seed * 100)
        circuits = Circuits(model, processor, encode_album(model, frames), *shown_by(frames.shown))
        circuits.set().save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")

    def _finish(self, folder: Path, before: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(self.output / before / "model")
        model.save_pretrained(folder)
        AutoProcessor.from_pretrained(self.output / before / "model").save_pretrained(folder)
        write_record(self.output, self._trained, FINISHED)


def _film_stages(settings: dict[str, Any]) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Name, kind, number and settings of the stages behind each other."""
    for kind in ("spelled", "seeing", "album"):
        for number, stage in enumerate(settings[kind]):
            yield f"{kind}-{number}-{stage['name']}", kind, number, stage


def _told_apart(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """All stages by name, in their order, with what of the settings each follows."""
    trainer, vision = settings["trainer"], settings["vision"]
    return [
        ("parts", (settings["tokenizer_films"], settings["text"], vision["tower"])),
        ("assembled", settings["assembly"]),
        ("vision", (vision, trainer)),
        *((name, (stage, trainer)) for name, _, _, stage in _film_stages(settings)),
        (CIRCUITS, settings.get(CIRCUITS)),
        ("checkpoint", None),
    ]


def _is_first() -> bool:
    """Whether this is a run's only process, or the one of several that writes."""
    return os.environ.get("RANK", "0") == "0"


def _share(batch_size: int) -> int:
    """Of a batch, for one of the processes that run together."""
    return batch_size // int(os.environ.get("WORLD_SIZE", 1))


def _spent(folder: Path) -> float:
    """Seconds that runs of a stage took which were stopped, as far as they logged them."""
    path = folder / LOG_NAME
    lines = read_log(path) if path.is_file() else []
    return lines[-1]["seconds"] if lines else 0.0


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
        settings = read_config(arguments.config)
    except (ValueError, FileNotFoundError) as wrong:
        parser.error(str(wrong))
    try:
        checkpoint = Recipe(settings, arguments.output, arguments.seed).run()
    except KeyboardInterrupt as stopped:
        told = filter(None, ("Stopped.", str(stopped), "The same command goes on from here."))
        print(*told, file=sys.stderr)
        return 130
    except RecipeError as wrong:
        parser.error(str(wrong))
    print(f"The checkpoint is {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
