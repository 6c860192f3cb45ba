"""From the authors' published checkpoint to a Video-XL folder that `from_pretrained` loads."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from videoxl.convert.conversion_plan import ConversionError, Shape, TensorMove, plan_moves, table_of_moves
from videoxl.convert.destination import new_folder
from videoxl.convert.processor_files import build_processor, load_original_tokenizer
from videoxl.convert.source import DEFAULT_SOURCE, locate_source
from videoxl.convert.weight_files import ShardWriter, WeightFiles
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.original_layout_videoxl import (
    fit_vocabulary_rows,
    is_original_config,
    resolve_vision_config,
    translate_original_config,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did: every tensor's move, and how much was written."""

    source: Path
    dest: Path
    moves: list[TensorMove]
    files: int
    size: int

    @property
    def used(self) -> list[TensorMove]:
        """The tensors that the model has now."""
        return [move for move in self.moves if move.target is not None]

    @property
    def left_out(self) -> list[TensorMove]:
        """The tensors that have no use, each with the reason as its note."""
        return [move for move in self.moves if move.target is None]

    def table(self) -> str:
        """Everything as lines of text, to be printed."""
        last = (
            f"{len(self.moves)} tensors read: {len(self.used)} used, each once, {len(self.left_out)} left out; "
            f"every tensor of the model is filled. {self.size / 1e6:,.1f} MB in {self.files} files in {self.dest}"
        )
        return f"{table_of_moves(self.moves)}\n{last}"


def convert_checkpoint(
    source: str | os.PathLike = DEFAULT_SOURCE,
    dest: str | os.PathLike = "Video-XL",
    subfolder: str | None = None,
    vision_tower: str | os.PathLike | None = None,
    dtype: str | None = None,
    allow_bin: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    """
    Converts a checkpoint in the published layout, weights file by weights file.

    Args:
        source: a folder, or a Hub id.
        dest: the folder to make; it appears only when it is whole.
        subfolder: where in `source` the checkpoint lies; known for the published repository.
        vision_tower: a folder or Hub id with the vision tower's config.json; needed where the published configuration
            names a tower that is not known.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`; without it the weights keep theirs, bit by bit.
        allow_bin: read `pytorch_model*.bin` where there are no safetensors; no other pickle is ever opened.
        overwrite: replace a Video-XL folder that is there already.

    Raises:
        ConversionError: if the tensors are not those that the configuration asks for.
        FileExistsError, FileNotFoundError, ValueError: for a destination, a file or a value that will not do.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: give one of {', '.join(DTYPES)}, or none to keep the weights' own.")
    folder = locate_source(source, subfolder, allow_bin)
    with new_folder(dest, overwrite) as work:
        original = _read_original_config(folder)
        vision_config = resolve_vision_config(original, vision_tower)
        tokenizer = load_original_tokenizer(folder, original)
        config = _configuration(translate_original_config(original, vision_config, len(tokenizer)), dtype)
        weights = WeightFiles(folder, allow_bin)
        targets = target_shapes(config)
        moves = plan_moves(weights.tensors, targets, original["vocab_size"], config.tie_word_embeddings)
        writer = _write_weights(weights, moves, targets, work, DTYPES.get(dtype))
        build_processor(tokenizer, config, vision_tower).save_pretrained(work)
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", work / "generation_config.json")
        config.save_pretrained(work)
        _check_written(work, targets)
    return ConversionReport(folder, Path(dest), moves, writer.written, writer.size)


def target_shapes(config: VideoXLConfig) -> dict[str, Shape]:
    """The name and shape of every tensor that a model of this configuration stores; a tied LM head stores none."""
    with torch.device("meta"):
        model = VideoXLForCausalLM(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def _read_original_config(folder: Path) -> dict:
    try:
        original = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    if not isinstance(original, dict) or not is_original_config(original):
        raise ValueError(
            f"{folder / 'config.json'} is not a published Video-XL configuration: it needs mm_vision_tower and "
            "beacon_window. A folder that is converted already needs no conversion."
        )
    return original


def _configuration(kwargs: dict, dtype: str | None) -> VideoXLConfig:
    if dtype is not None:
        kwargs = kwargs | {"dtype": dtype}
    try:
        return VideoXLConfig(**kwargs)
    except StrictDataclassError as error:
        raise ValueError(f"The published configuration is not one that is supported: {error}") from error


def _write_weights(
    weights: WeightFiles,
    moves: list[TensorMove],
    targets: dict[str, Shape],
    folder: Path,
    dtype: torch.dtype | None,
) -> ShardWriter:
    target_of = {move.source.name: move.target for move in moves if move.target is not None}
    used_files = [file for file in weights.files if any(weights.tensors[name].file == file for name in target_of)]
    writer = ShardWriter(folder, len(used_files))
    for file in used_files:
        writer.write(_converted_shard(weights, file, target_of, targets, dtype))
    writer.finish()
    return writer


def _converted_shard(
    weights: WeightFiles, file: Path, target_of: dict[str, str], targets: dict[str, Shape], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    # A function of its own, so that nothing holds on to one file's mapping when the next is opened.
    return {
        target_of[name]: _prepared(tensor, targets[target_of[name]], dtype)
        for name, tensor in weights.read(file)
        if name in target_of
    }


def _prepared(tensor: torch.Tensor, shape: Shape, dtype: torch.dtype | None) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        tensor = fit_vocabulary_rows(tensor, shape[0])
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def _check_written(folder: Path, targets: dict[str, Shape]) -> None:
    # Reads back what lies on the disk, so that a plan that was carried out wrongly cannot pass for a conversion.
    written = {name: tensor.shape for name, tensor in WeightFiles(folder).tensors.items()}
    if written != targets:
        wrong = sorted(set(written.items()) ^ set(targets.items()))
        raise ConversionError(f"The written weights are not the model's: {wrong[:10]}")
