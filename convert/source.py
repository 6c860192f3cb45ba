"""Finding a published checkpoint: a folder here or a repository on the Hub, and in it the weights' own folder."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download

# Repositories whose weights lie in a sub-folder.
KNOWN_SUBFOLDERS = {"sy1998/Video_XL": "VideoXL_weight_8"}
DEFAULT_SOURCE = "sy1998/Video_XL"

# The published folder also holds a training run's pickles; only what is named here is ever fetched or read.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
SAFETENSORS_FILES = ("model*.safetensors", "model.safetensors.index.json")
BIN_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def locate_source(
    source: str | os.PathLike = DEFAULT_SOURCE, subfolder: str | None = None, allow_bin: bool = False
) -> Path:
    """
    The local folder that holds `source`'s config.json and weights, fetched from the Hub where it is not one already.

    Args:
        source: a folder, or a Hub id.
        subfolder: the folder inside `source`; for `DEFAULT_SOURCE` it is known.
        allow_bin: whether `pytorch_model*.bin` files are fetched too.

    Raises:
        FileNotFoundError: if there is no config.json; says which sub-folders have one.
        ValueError: if `source` is neither a folder nor a repository that the Hub gives.
    """
    folder = Path(source)
    if not folder.is_dir():
        subfolder = KNOWN_SUBFOLDERS.get(str(source)) if subfolder is None else subfolder
        folder = _download(str(source), subfolder, allow_bin)
    elif subfolder is None and not (folder / "config.json").is_file():
        known = [name for name in KNOWN_SUBFOLDERS.values() if (folder / name / "config.json").is_file()]
        subfolder = known[0] if known else None
    folder = folder / subfolder if subfolder else folder
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json")) if folder.is_dir() else []
        hint = f" Sub-folders with one: {', '.join(inside)} (give --subfolder)." if inside else ""
        raise FileNotFoundError(f"{folder} has no config.json.{hint}")
    return folder


def wanted_files(subfolder: str | None, allow_bin: bool) -> list[str]:
    """Patterns of the files that are fetched from a repository, and no others."""
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    return [prefix + name for name in SMALL_FILES + SAFETENSORS_FILES + (BIN_FILES if allow_bin else ())]


def _download(repo_id: str, subfolder: str | None, allow_bin: bool) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=wanted_files(subfolder, allow_bin)))
    except Exception as error:  # the client raises many kinds, for bad ids as for a missing network
        raise ValueError(
            f"{repo_id!r} is no folder here, and could not be had as a repository from the Hub: {error}"
        ) from error
