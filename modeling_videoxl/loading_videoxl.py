"""Loading a model from a folder in the authors' layout, and saving it in ours."""

import copy
import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.utils.hub import cached_file

from .configuration_videoxl import VideoXLConfig
from .original_layout_videoxl import (
    ORIGINAL_KEY_RENAMINGS,
    ORIGINAL_KEYS_LEFT_OUT,
    fit_vocabulary_rows,
    is_original_config,
    original_tokenizer_length,
    resolve_vision_config,
    translate_original_config,
)

# Overwritten on purpose: the package and remote code, or two copies of the latter, may both be imported.
register_checkpoint_conversion_mapping(
    VideoXLConfig.model_type,
    [WeightRenaming(pattern, replacement) for pattern, replacement in ORIGINAL_KEY_RENAMINGS],
    overwrite=True,
)

UNQUANTIZED = (r"(model\.)?vision_tower", r"(model\.)?multi_modal_projector", "lm_head")  # patterns of module names
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class OriginalLayoutMixin:
    """`from_pretrained` that also reads the authors' layout, `save_pretrained` that writes ours."""

    _keys_to_ignore_on_load_unexpected = [pattern for pattern, _ in ORIGINAL_KEYS_LEFT_OUT]  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, vision_tower=None, **kwargs):
        """
        As everywhere in transformers; the folder or repository may be in the authors' layout.

        Args:
            vision_tower: for the authors' layout, which names its vision tower by a path of theirs: a folder or Hub id
                with that tower's `config.json`. Known CLIP names need none.
            quantization_config: leaves vision tower, projector and head alone, unless it names modules itself.
        """
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = spare_vision(kwargs["quantization_config"])
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        if config is None and pretrained_model_name_or_path is not None:
            original, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
            if is_original_config(original):
                folder = _tokenizer_folder(pretrained_model_name_or_path, hub)
                return cls._from_original(
                    pretrained_model_name_or_path, args, original, folder, vision_tower, hub, kwargs
                )
        if vision_tower is not None:
            raise ValueError(
                f"vision_tower={str(vision_tower)!r} is for folders in the authors' layout; "
                f"{str(pretrained_model_name_or_path)!r} holds its vision tower's configuration itself."
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    @classmethod
    def _from_original(cls, name, args, original: dict, folder: Path, vision_tower, hub: dict, kwargs):
        vision_config = resolve_vision_config(original, vision_tower)
        translated = translate_original_config(original, vision_config, original_tokenizer_length(folder))
        placeholders = {key: translated.pop(key) for key in ("image_token_id", "video_token_id")}
        wanted = translated["text_config"]["vocab_size"]
        # The tables are read as they are; where they have no room for the placeholders, or a row too many, they are
        # fitted after. Until then any two ids do.
        rows = _table_rows(name, hub) or original["vocab_size"]
        translated["text_config"]["vocab_size"] = rows
        config = VideoXLConfig(**translated, image_token_id=0, video_token_id=1)
        loaded = super().from_pretrained(name, *args, config=config, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info", False) else loaded
        if rows != wanted:
            model._fit_vocabulary(wanted)
        for key, value in placeholders.items():
            setattr(model.config, key, value)
        return loaded

    @torch.no_grad()
    def _fit_vocabulary(self, rows: int) -> None:
        tables = [self.get_input_embeddings(), self.get_output_embeddings()]
        fitted = [fit_vocabulary_rows(table.weight, rows) for table in tables if table is not None]
        self.resize_token_embeddings(rows, mean_resizing=False)
        for table, weight in zip([self.get_input_embeddings(), self.get_output_embeddings()], fitted):
            table.weight.copy_(weight)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """As everywhere in transformers; `save_original_format=True` writes the authors' tensor names."""
        return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


def spare_vision(quantization):
    """
    A quantization configuration (or its dict) that leaves vision tower, projector and head as they are, where it does
    not say itself what it leaves: they are a ninth of the 7B weights, and all that is seen or said passes them.
    """
    quantization = copy.copy(quantization)
    fields = quantization if isinstance(quantization, dict) else vars(quantization)
    names = [name for name in ("modules_to_not_convert", "llm_int8_skip_modules") if name in fields]
    if not any(fields[name] for name in names):
        fields.update({name: list(UNQUANTIZED) for name in names or ["modules_to_not_convert"]})
    return quantization


def _tokenizer_folder(name, hub: dict) -> Path:
    """Where `vocab.json` and, if there is one, `added_tokens.json` lie."""
    vocabulary = cached_file(name, "vocab.json", **hub)
    cached_file(name, "added_tokens.json", _raise_exceptions_for_missing_entries=False, **hub)
    return Path(vocabulary).parent


def _table_rows(name, hub: dict) -> int | None:
    """Rows of the embedding in the checkpoint's safetensors, or None where its weights are of another kind."""
    key, missing = "model.embed_tokens.weight", {"_raise_exceptions_for_missing_entries": False}
    index = cached_file(name, "model.safetensors.index.json", **missing, **hub)
    shard = json.loads(Path(index).read_text())["weight_map"].get(key) if index else "model.safetensors"
    file = cached_file(name, shard, **missing, **hub) if shard else None
    if file is None:
        return None
    with safe_open(file, "pt") as tensors:
        return tensors.get_slice(key).get_shape()[0] if key in tensors.keys() else None  # noqa: SIM118
