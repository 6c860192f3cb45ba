"""The layout in which the authors published Video-XL: one flat configuration, their tensor names, Qwen2's tokenizer.

Only tables and pure functions: the converter and the model's direct loading both read the published layout with what
stands here, and with nothing else.
"""

import json
import os
import re
from pathlib import Path

# (pattern, replacement): a published tensor name becomes ours by the first pattern that matches; others stay.
ORIGINAL_KEY_RENAMINGS: list[tuple[str, str]] = [
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(embed_tokens|layers|norm|beacon_embed_tokens)\.", r"model.language_model.\1."),
]

# (pattern, reason): tensors that a checkpoint may carry and the model has no use for.
ORIGINAL_KEYS_LEFT_OUT: list[tuple[str, str]] = [
    (r"\.embeddings\.position_ids$", "a constant 0, 1, 2, … that the vision tower makes itself"),
    (r"\.rotary_emb\.inv_freq$", "computed from rope_theta"),
]

# The architecture that a known name stands for; the same fields are read from any other tower's configuration.
KNOWN_VISION_TOWERS: dict[str, dict] = {
    "clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "initializer_factor": 1.0,
    }
}

DEFAULT_COMPRESSION_RATIO = 8  # the published configuration names none; the authors' demo uses 8

# What a published configuration may say and this project computes; anything else would silently be another model.
SUPPORTED_SETTINGS: dict[str, tuple] = {
    "enable_beacon": (True,),
    "image_aspect_ratio": ("anyres",),
    "mm_patch_merge_type": ("unires",),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": ("spatial_pool",),
    "mm_spatial_pool_mode": ("average", "max"),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": ("patch",),
}
OPTIONAL_SETTINGS = ("enable_beacon", "mm_use_im_patch_token", "mm_use_im_start_end")

QWEN2_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
OPTIONAL_QWEN2_FIELDS = (
    "initializer_range",
    "use_cache",
    "attention_dropout",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
BEACON_FIELDS = (
    "beacon_window",
    "beacon_stride",
    "beacon_ratio",
    "beacon_param",
    "beacon_attn",
    "beacon_attend_prev",
    "beacon_pos",
    "beacon_accum",
    "beacon_sink_size",
)


def is_original_config(config: dict) -> bool:
    """Whether `config` is a published, flat configuration: it names a vision tower and a window, and is not ours."""
    return config.get("model_type") != "videoxl" and "mm_vision_tower" in config and "beacon_window" in config


def rename_original_key(key: str) -> str:
    """Our name of the tensor that the authors call `key`; a name that no pattern knows comes back as it is."""
    for pattern, replacement in ORIGINAL_KEY_RENAMINGS:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def fit_vocabulary_rows(table, rows: int):
    """
    An embedding or LM head with `rows` rows: rows beyond are cut, missing ones become the mean of those there.

    No trained weights are lost by the cut, nor meant by the mean: beyond the vocabulary the authors' code keeps an
    untrained row, and the placeholders' rows are never read. A mean row never has the largest logit.

    Args:
        table (`torch.Tensor`): [vocabulary, D]
    """
    have = table.shape[0]
    if have >= rows:
        return table[:rows].clone()
    fitted = table.new_empty(rows, table.shape[1])
    fitted[:have] = table
    fitted[have:] = table.float().mean(0)
    return fitted


def original_tokenizer_length(folder: str | os.PathLike) -> int:
    """
    The first id that the tokenizer in `folder` does not use, which is where new tokens go: Qwen2's 151,646.

    Args:
        folder: holds `vocab.json`, and `added_tokens.json` if it has more tokens than that.

    Raises:
        FileNotFoundError: if `vocab.json` is missing.
        ValueError: if one of the files is not a table from tokens to ids.
    """
    folder = Path(folder)
    if not (folder / "vocab.json").is_file():
        raise FileNotFoundError(f"{folder} has no vocab.json: the tokenizer's files must lie beside the weights.")
    length = 0
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            ids = _read_json(folder / name).values()
            if not all(isinstance(value, int) and value >= 0 for value in ids):
                raise ValueError(f"{folder / name} is not a table from tokens to ids.")
            length = max([length, *(value + 1 for value in ids)])
    return length


def resolve_vision_config(original: dict, vision_tower: str | os.PathLike | None = None) -> dict:
    """
    The vision tower's architecture, which a published configuration only names.

    Args:
        original: the published configuration.
        vision_tower: a folder with CLIP's `config.json` (of the vision model, or of the whole CLIP), that file, a Hub
            id, or one of `KNOWN_VISION_TOWERS`; without it the published configuration must name a known tower, by
            whatever path. That path itself is never opened.

    Returns:
        `dict`: the keyword arguments of `CLIPVisionConfig`.

    Raises:
        ValueError: if the tower cannot be known, or its width is not the one the projector was trained on.
    """
    named = str(original.get("mm_vision_tower", ""))
    if vision_tower is None:
        known = KNOWN_VISION_TOWERS.get(_last_part(named))
        if known is None:
            raise ValueError(
                f"The configuration names its vision tower {named!r}, whose architecture is not known here (known: "
                f"{', '.join(KNOWN_VISION_TOWERS)}). Give vision_tower= (on the command line --vision-tower): a "
                "folder or a Hub id with that tower's config.json."
            )
        config = dict(known)
    else:
        config = _read_vision_tower(vision_tower)
    if original.get("mm_hidden_size", config["hidden_size"]) != config["hidden_size"]:
        raise ValueError(
            f"vision_tower={str(vision_tower or named)!r} has hidden_size {config['hidden_size']}, but the projector "
            f"of the checkpoint takes mm_hidden_size {original['mm_hidden_size']}: give the tower it was trained with."
        )
    return config


def translate_original_config(original: dict, vision_config: dict, tokenizer_length: int) -> dict:
    """
    What a published configuration says, as keyword arguments of `VideoXLConfig`.

    Args:
        original: the published configuration (`config.json`).
        vision_config: from `resolve_vision_config`.
        tokenizer_length: the first unused token id; `<image>` gets it and `<video>` the next. Where the vocabulary has
            no room for both, `vocab_size` grows to just hold them.

    Raises:
        ValueError: if a value is missing, or is one that this project does not compute.
    """
    _check_settings(original)
    text_config = {name: _require(original, name) for name in QWEN2_FIELDS}
    text_config |= {name: original[name] for name in OPTIONAL_QWEN2_FIELDS if name in original}
    text_config |= {name: _require(original, name) for name in BEACON_FIELDS}
    text_config |= {name: value for name, value in original.items() if name.startswith("beacon_")}
    text_config["rope_parameters"] = _rope_parameters(original)
    text_config["vocab_size"] = max(text_config["vocab_size"], tokenizer_length + 2)
    dtype = original.get("dtype") or original.get("torch_dtype")
    return {
        "text_config": text_config,
        "vision_config": vision_config,
        "image_token_id": tokenizer_length,
        "video_token_id": tokenizer_length + 1,
        "vision_feature_layer": _require(original, "mm_vision_select_layer"),
        "spatial_pool_stride": _require(original, "mm_spatial_pool_stride"),
        "spatial_pool_mode": _require(original, "mm_spatial_pool_mode"),
        "image_grid_pinpoints": _require(original, "image_grid_pinpoints"),
        "default_compression_ratio": DEFAULT_COMPRESSION_RATIO,
        "tie_word_embeddings": text_config["tie_word_embeddings"],
        "architectures": ["VideoXLForCausalLM"],
        **({"dtype": dtype} if dtype else {}),
    }


def _check_settings(original: dict) -> None:
    for name, supported in SUPPORTED_SETTINGS.items():
        value = original.get(name, supported[0]) if name in OPTIONAL_SETTINGS else _require(original, name)
        if value not in supported:
            raise ValueError(
                f"The published configuration says {name}={value!r}; supported: "
                f"{', '.join(repr(option) for option in supported)}."
            )


def _require(original: dict, name: str):
    if name not in original:
        raise ValueError(f"The published configuration has no {name!r}: is this a Video-XL checkpoint's config.json?")
    return original[name]


def _rope_parameters(original: dict) -> dict:
    # Older files keep the base and the scaling apart; without the base the library would assume 10,000.
    if original.get("rope_parameters"):
        return dict(original["rope_parameters"])
    scaling = dict(original.get("rope_scaling") or {})
    rope_type = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    return {**scaling, "rope_type": rope_type, "rope_theta": float(_require(original, "rope_theta"))}


def _read_vision_tower(vision_tower: str | os.PathLike) -> dict:
    path = Path(vision_tower)
    if path.is_dir() or path.is_file():
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"vision_tower={str(vision_tower)!r}: that folder has no config.json.")
    elif _last_part(str(vision_tower)) in KNOWN_VISION_TOWERS:
        return dict(KNOWN_VISION_TOWERS[_last_part(str(vision_tower))])
    else:
        path = _download_config(str(vision_tower))
    config = _read_json(path)
    config = config.get("vision_config", config)
    fields = next(iter(KNOWN_VISION_TOWERS.values()))
    missing = {"hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"} - config.keys()
    if missing or config.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise ValueError(
            f"vision_tower={str(vision_tower)!r}: its config.json is not a CLIP vision model's"
            f"{' (missing: ' + ', '.join(sorted(missing)) + ')' if missing else ''}."
        )
    return {name: config[name] for name in fields if name in config}


def _download_config(repo_id: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(repo_id, "config.json")
    except Exception as error:  # the client raises many kinds, for bad ids as for a missing network
        raise ValueError(
            f"vision_tower={repo_id!r} is no folder here, and its config.json could not be had from the Hub: {error}"
        ) from error


def _read_json(path: str | os.PathLike) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object.")
    return content


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
