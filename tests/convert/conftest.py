"""The published layout as a folder that a test may spoil, and its conversion."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from videoxl.convert.checkpoint_conversion import ConversionReport, convert_checkpoint

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "authors_tiny" / "checkpoint"
CLIP = CHECKPOINT / "clip"


class PublishedFolder:
    """A copy of the golden checkpoint, with its tensors and configuration to change."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(CHECKPOINT, folder)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {key: t for file in self.folder.glob("model-*.safetensors") for key, t in load_file(file).items()}

    def replace_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Puts `tensors` in place of the shards, in one file."""
        self.remove_weights()
        save_file(tensors, self.folder / "model.safetensors")

    def remove_weights(self) -> None:
        for file in self.folder.glob("model*.safetensors*"):
            file.unlink()

    def change_config(self, **values) -> None:
        path = self.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def convert(self, dest: Path, **kwargs) -> ConversionReport:
        return convert_checkpoint(self.folder, dest, vision_tower=CLIP, **kwargs)


@pytest.fixture
def published(tmp_path) -> PublishedFolder:
    return PublishedFolder(tmp_path / "published")


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The golden checkpoint, converted."""
    dest = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(CHECKPOINT, dest, vision_tower=CLIP)
    return dest
