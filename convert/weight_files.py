"""Reading and writing a checkpoint's weights one file at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and how large it is, known without reading it."""

    name: str
    file: Path
    shape: tuple[int, ...]


class WeightFiles:
    """
    The weights of one checkpoint folder, by file; a file is opened, mapped and closed again on its own.

    Args:
        folder: holds `model.safetensors`, or shards and their index.
        allow_bin: read `pytorch_model*.bin` where there are no safetensors, with `weights_only`, so that no code in
            them runs.

    Raises:
        FileNotFoundError: if there are no weights, or a shard that the index names is missing.
        ValueError: if the only weights are pickles and `allow_bin` is not set, a file cannot be read, or two shards
            hold the same tensor.
    """

    def __init__(self, folder: Path, allow_bin: bool = False):
        self.files = _weight_files(folder, allow_bin)
        self.tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, shape in _shapes(file).items():
                if name in self.tensors:
                    raise ValueError(f"{name} is stored twice: in {self.tensors[name].file.name} and {file.name}.")
                self.tensors[name] = StoredTensor(name, file, shape)

    def read(self, file: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor of `file`, mapped from the disk rather than copied."""
        if file.suffix == ".bin":
            yield from _load_bin(file).items()
            return
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (the handle is no dict)
                yield name, opened.get_tensor(name)


class ShardWriter:
    """
    Writes shards as they come, and the index when all are there.

    Args:
        folder: where the shards go.
        count: how many there will be; one alone is called `model.safetensors` and needs no index.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.weight_map: dict[str, str] = {}
        self.parameters = self.size = self.written = 0

    def write(self, tensors: dict[str, torch.Tensor]) -> None:
        """The next shard."""
        self.written += 1
        name = "model.safetensors" if self.count == 1 else f"model-{self.written:05d}-of-{self.count:05d}.safetensors"
        save_file(tensors, self.folder / name, metadata={"format": "pt"})
        (self.folder / name).chmod(self.folder.stat().st_mode & 0o666)  # safetensors lets the owner alone read it
        for key, tensor in tensors.items():
            self.weight_map[key] = name
            self.parameters += tensor.numel()
            self.size += tensor.numel() * tensor.element_size()

    def finish(self) -> None:
        """The index, last of all."""
        if self.count == 1:
            return
        metadata = {"total_size": self.size, "total_parameters": self.parameters}
        index = {"metadata": metadata, "weight_map": dict(sorted(self.weight_map.items()))}
        (self.folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _weight_files(folder: Path, allow_bin: bool) -> list[Path]:
    found = _indexed(folder / INDEX_NAME, ".safetensors") or _existing(folder / "model.safetensors")
    if found:
        return found
    pickles = _indexed(folder / "pytorch_model.bin.index.json", ".bin") or _existing(folder / "pytorch_model.bin")
    if pickles and not allow_bin:
        raise ValueError(
            f"{folder} holds its weights as pickles ({pickles[0].name}, …), which are not opened unless asked for: "
            "allow_bin=True (--allow-bin) reads them with weights_only, so that no code in them runs."
        )
    if not pickles:
        raise FileNotFoundError(f"{folder} has neither {INDEX_NAME} nor model.safetensors.")
    return pickles


def _existing(path: Path) -> list[Path]:
    return [path] if path.is_file() else []


def _indexed(index: Path, suffix: str) -> list[Path]:
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} is not a weights index: {error!r}") from error
    for name in names:
        # An index is a stranger's file: it must not lead out of its own folder, nor to a training run's pickles.
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != suffix:
            raise ValueError(f"{index} names {name!r}, which is not a weights file beside it.")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing, though {index.name} names it: fetch it again.")
    return [index.parent / name for name in names]


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".bin":
        return {name: tuple(tensor.shape) for name, tensor in _load_bin(file).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors ({error}): fetch it again.") from error


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a stranger's file makes the reader raise
        raise ValueError(f"{file} cannot be read as a table of tensors with weights_only: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{file} is not a table from names to tensors.")
    return loaded
