"""Annotations in the authors' format: rows of conversations about a video, an image or several images."""

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from .encoding import MEDIA, check_conversations, check_media, row_name

_BRACES = re.compile(r"\{([^{}]*)\}")
_SAMPLING = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


class AnnotationRows(Dataset):
    """
    Rows of the authors' format, the names of their files made whole.

    Args:
        rows: dicts with `id`, `conversations` and at most one of `video` and `image`; a sequence of them, such as a
            list or an object of `datasets`.
        media_folder: what relative names of videos and images are relative to.

    Raises:
        ValueError: for a row without conversations, with an empty answer, or whose file is missing; it names the row.
            All rows of a list are looked at here, so that a run does not end hours later for one of them; objects of
            `datasets` decode whatever they hold, so that their rows are looked at when they come up.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], media_folder: str | os.PathLike = "."):
        self.rows, self.media_folder = rows, Path(media_folder)
        for number in range(len(rows)) if isinstance(rows, list) else ():
            row = self[number]
            check_conversations(row)
            check_media(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        if not isinstance(row, Mapping):
            raise ValueError(f"row {index} of the annotations is no object with 'conversations': {row!r:.200}")
        whole = {name: value for name, value in row.items() if value is not None}
        whole.setdefault("id", str(index))
        for kind in MEDIA:
            if kind in whole:
                whole[kind] = self._located(whole[kind], row_name(whole))
        return whole

    def _located(self, media: Any, name: str) -> Any:
        if isinstance(media, (list, tuple)):
            return [self._located(item, name) for item in media]
        if not isinstance(media, (str, os.PathLike)) or "://" in str(media):
            return media
        path = self.media_folder / media
        if not path.exists():
            raise ValueError(f"{name}: {path} is missing; relative names are looked for in {self.media_folder}")
        return str(path)


def read_annotations(source: Any, media_folder: str | os.PathLike | None = None, seed: int = 0) -> Dataset:
    """
    The rows of `source`, as a map dataset.

    Args:
        source: a `.json` list or `.jsonl` file; several of them in braces (`"data/{news,films}.json"`) or with
            wildcards; a `.yaml` list of them, `datasets: [{json_path: …, sampling_strategy: "first:10%"}]` with
            `first`, `end` or `random` and a number or a share; a list of all these; a list of rows; an object of
            `datasets`; or any map dataset of such rows, which comes back as it is.
        media_folder: where the files that the rows name lie; by default beside the annotations.
        seed: of `random` samples.

    Raises:
        ValueError: naming the file or row that is no good.
        FileNotFoundError: for a file that is not there.
    """
    if isinstance(source, (str, os.PathLike)):
        parts = [_read_file(path, media_folder, seed) for path in expand_names(str(source))]
        return parts[0] if len(parts) == 1 else ConcatDataset(parts)
    if isinstance(source, (list, tuple)):
        source = list(source)
        if source and all(isinstance(part, (str, os.PathLike)) for part in source):
            return ConcatDataset([read_annotations(part, media_folder, seed) for part in source])
        return _checked_rows(source, "the list of rows", media_folder or ".")
    if hasattr(source, "column_names"):  # an object of `datasets`
        if "conversations" not in source.column_names:
            raise ValueError(f"the dataset has no column 'conversations', only {', '.join(source.column_names)}")
        return _checked_rows(source, "the dataset", media_folder or ".")
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise ValueError(f"training rows come from files, lists or map datasets, got a {type(source).__name__}")
    return source


def expand_names(names: str) -> list[Path]:
    """
    `"a/{b,c}.json"` to both files, wildcards to all that match.

    Raises:
        FileNotFoundError: for a name that no file has.
    """
    braces = _BRACES.search(names)
    if braces:
        before, after = names[: braces.start()], names[braces.end() :]
        return [path for part in braces[1].split(",") for path in expand_names(before + part.strip() + after)]
    found = sorted(glob.glob(names)) if glob.has_magic(names) and not os.path.exists(names) else [names]
    if not found or not os.path.isfile(found[0]):
        raise FileNotFoundError(f"there are no annotations at {names}")
    return [Path(name) for name in found]


def _read_file(path: Path, media_folder: str | os.PathLike | None, seed: int) -> Dataset:
    if path.suffix in (".yaml", ".yml"):
        return _read_list(path, media_folder, seed)
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else json.loads(text)
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no JSON list of rows")
    return _checked_rows(rows, str(path), media_folder or path.parent)


def _checked_rows(rows: Sequence, where: str, media_folder: str | os.PathLike) -> AnnotationRows:
    if not len(rows):
        raise ValueError(f"{where} holds no rows")
    try:
        return AnnotationRows(rows, media_folder)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_list(path: Path, media_folder: str | os.PathLike | None, seed: int) -> Dataset:
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"]
        names = [(entry["json_path"], str(entry.get("sampling_strategy", "all"))) for entry in entries]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} lists no annotations: it needs `datasets:` and under it entries with `json_path:` ({error!r})"
        ) from error
    parts = []
    for name, sampling in names:
        for file in expand_names(str(path.parent / name)):
            part = _read_file(file, media_folder, seed)
            chosen = _chosen(len(part), sampling, seed, f"{path}, {name}")
            parts.append(part if chosen is None else AnnotationRows([part[i] for i in chosen]))
    if not parts:
        raise ValueError(f"{path} lists no annotations")
    return ConcatDataset(parts)


def _chosen(count: int, sampling: str, seed: int, where: str) -> Sequence[int] | None:
    """The rows that a `sampling_strategy` takes of `count`, or None for all."""
    if sampling == "all":
        return None
    found = _SAMPLING.fullmatch(sampling)
    if not found:
        raise ValueError(f"{where}: sampling_strategy is all, first:N, end:N or random:N (or N%), got {sampling!r}")
    kind, number, percent = found.groups()
    share = -(-count * float(number) // 100) if percent else float(number)
    wanted = min(count, int(share))
    if wanted < 1:
        raise ValueError(f"{where}: sampling_strategy {sampling!r} takes none of {count} rows")
    if kind == "random":
        return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())
    return range(wanted) if kind == "first" else range(count - wanted, count)
