"""A training run from its configuration file to its last checkpoint."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoProcessor, TrainerCallback, set_seed

from videoxl.checkpoints import naming_checkpoint

from .annotations import read_annotations
from .arguments import VideoXLTrainingArguments, arguments_from
from .callbacks import StopOnInterrupt
from .parts import LoraSettings, train_only, with_adapters
from .trainer import VideoXLTrainer

CONFIGS = Path(__file__).parent / "configs"


def read_config(config: str | os.PathLike | Mapping[str, Any], changes: Sequence[str] = ()) -> dict[str, Any]:
    """
    The settings of a configuration.

    Args:
        config: a YAML file, the name of one that comes with the package (`stage1_projector`), or the settings.
        changes: `"name=value"`, values as in YAML, which take the places of the file's.

    Raises:
        FileNotFoundError: naming the configurations that there are.
        ValueError: for a file that is no table of settings, or a change without `=`.
    """
    import yaml

    if isinstance(config, Mapping):
        settings = dict(config)
    else:
        path = Path(config) if Path(config).is_file() else CONFIGS / f"{config}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
            raise FileNotFoundError(f"there is no configuration {str(config)!r}; the package has {names}")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} holds no settings: it needs lines such as `model: path/to/checkpoint`")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r}: give changes as name=value")
        settings[name] = yaml.safe_load(value)
    return settings


def run_training(
    config: str | os.PathLike | Mapping[str, Any],
    changes: Sequence[str] = (),
    resume: bool = False,
    train_rows: Dataset | None = None,
    eval_rows: Dataset | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: type[VideoXLTrainer] = VideoXLTrainer,
) -> VideoXLTrainer:
    """
    Trains as `config` says, and leaves model and processor, log and curve in its `output_dir`.

    Args:
        config, changes: see [`read_config`].
        resume: go on from the last checkpoint in `output_dir`.
        train_rows, eval_rows: datasets in place of the configuration's `train_data` and `eval_data`.
        callbacks: of the Trainer.
        trainer_class: [`VideoXLTrainer`], or one that makes something else of the rows.

    Returns:
        `VideoXLTrainer`: after training; its `state.log_history` holds the losses.

    Raises:
        ValueError, FileNotFoundError: naming the setting, the file or the row that is no good.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written; it says how to go on.
    """
    arguments = arguments_from(read_config(config, changes))
    for name, given in (("model", arguments.model), ("train_data", train_rows or arguments.train_data)):
        if given is None:
            raise ValueError(f"the configuration has no {name!r}: put it into the file, or give {name}=…")
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are here: use them with `accelerate launch -m videoxl train …`, or show one "
            "alone with CUDA_VISIBLE_DEVICES=0"
        )
    checkpoint = last_checkpoint(arguments.output_dir) if resume else arguments.resume_from_checkpoint
    set_seed(arguments.seed)
    folder, seed = arguments.media_folder, arguments.seed
    if train_rows is None:
        train_rows = read_annotations(arguments.train_data, folder, seed)
    if eval_rows is None and arguments.eval_data is not None:
        eval_rows = read_annotations(arguments.eval_data, folder, seed)
    stop = StopOnInterrupt()
    trainer = trainer_class(
        model=load_model(arguments),
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=AutoProcessor.from_pretrained(arguments.model),
        callbacks=[stop, *callbacks],
    )
    with stop.listening():
        trainer.train(resume_from_checkpoint=checkpoint)
    if stop.asked:
        raise KeyboardInterrupt(
            f"step {trainer.state.global_step} is saved in {arguments.output_dir}: go on with --resume"
        )
    trainer.save_model()
    return trainer


def load_model(arguments: VideoXLTrainingArguments):
    """The model that a run starts from, its parts frozen or given adapters as the settings say."""
    with naming_checkpoint("model", str(arguments.model)):
        model = AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=arguments.model_dtype, attn_implementation=arguments.attn_implementation
        )
    if arguments.checkpoint_windows:
        model.enable_window_checkpointing()
    if arguments.lora is None:
        train_only(model, arguments.trained_parts)
        return model
    return with_adapters(model, LoraSettings.from_dict(arguments.lora), arguments.trained_parts)


def last_checkpoint(folder: str | os.PathLike) -> str:
    """
    The newest whole checkpoint of a run; its state is written last, so that one cut short has none.

    Raises:
        FileNotFoundError: if there is none.
    """
    whole = [path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json")]
    numbered = [path for path in whole if path.name.removeprefix("checkpoint-").isdigit()]
    if not numbered:
        raise FileNotFoundError(f"{folder} holds no checkpoint to go on from: leave --resume out to start anew")
    return str(max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-"))))
