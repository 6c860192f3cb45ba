"""The tokenizer and the processor of a published checkpoint, which ships neither chat template nor preprocessor."""

import json
import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AddedToken, Qwen2Tokenizer

from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.original_layout_videoxl import KNOWN_VISION_TOWERS
from videoxl.processing.image_processing_videoxl import VideoXLImageProcessor
from videoxl.processing.processing_videoxl import VideoXLProcessor, add_placeholder_tokens
from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor

# What a vision tower's own preprocessor file may say about its pixels; its sizes follow from the architecture.
PREPROCESSOR_FIELDS = ("image_mean", "image_std", "rescale_factor", "resample")


def load_original_tokenizer(folder: Path, original: dict) -> Qwen2Tokenizer:
    """
    Qwen2's tokenizer from `vocab.json`, `merges.txt` and `added_tokens.json`.

    Where there is no `tokenizer_config.json`, as in the published checkpoint, every added token is a special one (a
    chat's marks), and which of them ends a turn is read from the published configuration's `eos_token_id`.

    Raises:
        FileNotFoundError: if one of the first two files is missing.
        ValueError: if `eos_token_id` is not one of the tokenizer's tokens.
    """
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}: the tokenizer cannot be built.")
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    if (folder / "tokenizer_config.json").is_file():
        return tokenizer
    added = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added], special_tokens=True)
    end = original.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if not isinstance(end, int) or end >= len(tokenizer):
        raise ValueError(f"The published configuration says eos_token_id={end!r}, which the tokenizer does not have.")
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.extra_special_tokens = [token for token in added if token != tokenizer.eos_token]
    tokenizer.model_max_length = original.get("tokenizer_model_max_length") or tokenizer.model_max_length
    return tokenizer


def read_vision_preprocessor(vision_tower: str | os.PathLike | None) -> dict:
    """
    Mean, standard deviation, rescaling and resampling from the vision tower's `preprocessor_config.json`.

    Empty, which leaves CLIP's own values, where the tower is a known one or has no such file.
    """
    folder = Path(vision_tower or "")
    path = (folder.parent if folder.is_file() else folder) / "preprocessor_config.json"
    if vision_tower is None or (not folder.exists() and folder.name in KNOWN_VISION_TOWERS):
        return {}
    if not folder.exists():
        try:
            path = Path(hf_hub_download(str(vision_tower), "preprocessor_config.json"))
        except HfHubHTTPError:  # the architecture was had from the same repository; this file is optional
            return {}
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {name: values[name] for name in PREPROCESSOR_FIELDS if name in values}


def build_processor(
    tokenizer: Qwen2Tokenizer, config: VideoXLConfig, vision_tower: str | os.PathLike | None = None
) -> VideoXLProcessor:
    """The `VideoXLProcessor` of a model with this tokenizer and `config`, whose placeholder ids it must agree on."""
    side = config.vision_config.image_size
    pixels = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    pixels |= read_vision_preprocessor(vision_tower)
    ids = add_placeholder_tokens(tokenizer)
    if ids != (config.image_token_id, config.video_token_id):
        raise ValueError(
            f"The tokenizer's files give <image> and <video> the ids {ids}, where the first two unused ones, "
            f"{(config.image_token_id, config.video_token_id)}, are expected: they hold tokens of those names."
        )
    return VideoXLProcessor(
        image_processor=VideoXLImageProcessor(image_grid_pinpoints=config.image_grid_pinpoints, **pixels),
        video_processor=VideoXLVideoProcessor(**pixels),
        tokenizer=tokenizer,
        tokens_per_frame=config.tokens_per_frame,
        tokens_per_tile=config.tokens_per_tile,
    )
