"""Where weights come from and go to: hostile and broken sources, pickles, interruption, memory."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from videoxl.convert.checkpoint_conversion import target_shapes
from videoxl.convert.source import KNOWN_SUBFOLDERS, locate_source, wanted_files
from videoxl.convert.weight_files import INDEX_NAME, WeightFiles
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.original_layout_videoxl import resolve_vision_config, translate_original_config

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "authors_tiny" / "checkpoint"
CLIP = CHECKPOINT / "clip"

CONVERT = """
import sys
from videoxl.convert.checkpoint_conversion import convert_checkpoint
"""
KILLED_BEFORE_THE_END = """
import os, signal
def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith("generation_config.json") and "unfinished" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
convert_checkpoint(sys.argv[1], sys.argv[2], vision_tower=sys.argv[3])
"""
PEAK_MEMORY = """
import re
from pathlib import Path
def kilobytes(name):  # not getrusage, which starts from the peak of the process that started this one
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
convert_checkpoint(sys.argv[1], sys.argv[2], vision_tower=sys.argv[3])
print((kilobytes("VmHWM") - before) * 1024)
"""
DEFAULT_SOURCE = """
print(convert_checkpoint(dest=sys.argv[1], vision_tower=sys.argv[2]).table())
"""


class Trap:
    """A pickle of this makes a file when it is opened by a reader that runs code."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", CONVERT + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_litter_is_neither_opened_nor_carried_along(published, tmp_path):
    mark = tmp_path / "was_here"
    for name in ("training_args.bin", "rng_state_0.pth", "scheduler.pt", "optimizer.bin"):
        (published.folder / name).write_bytes(pickle.dumps(Trap(mark)))
    (published.folder / "trainer_state.json").write_text("{broken")
    (published.folder / "latest").write_text("global_step1")
    published.convert(tmp_path / "dest", allow_bin=True)
    assert not mark.exists()
    written = {path.name for path in (tmp_path / "dest").iterdir()}
    assert not written & {"training_args.bin", "rng_state_0.pth", "scheduler.pt", "trainer_state.json", "latest"}


def test_only_what_is_needed_is_fetched():
    folder = "VideoXL_weight_8"
    needed = {"config.json", "generation_config.json", "vocab.json", "merges.txt", "added_tokens.json", INDEX_NAME}
    needed |= {f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)}
    litter = {"trainer_state.json", "training_args.bin", "rng_state_0.pth", "latest", "optimizer.pt"}
    repository = [f"{folder}/{name}" for name in needed | litter] + ["pretrain_weights/mm_projector.bin", "README.md"]
    fetched = set(filter_repo_objects(repository, allow_patterns=wanted_files(folder, allow_bin=True)))
    assert fetched == {f"{folder}/{name}" for name in needed}
    pickles = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
    assert not list(filter_repo_objects(pickles, allow_patterns=wanted_files(None, allow_bin=False)))
    assert len(list(filter_repo_objects(pickles, allow_patterns=wanted_files(None, allow_bin=True)))) == 2


def test_default_source_knows_its_subfolder(tmp_path):
    (repository, subfolder), *_ = KNOWN_SUBFOLDERS.items()
    cached = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    shutil.copytree(CHECKPOINT, cached / "snapshots" / ("a" * 40) / subfolder)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    done = run(DEFAULT_SOURCE, tmp_path / "dest", CLIP, HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    assert "117 used" in done.stdout, done.stderr
    assert (tmp_path / "dest" / "config.json").is_file()


def test_subfolder_of_a_local_folder(tmp_path):
    shutil.copytree(CHECKPOINT, tmp_path / "step8")
    with pytest.raises(FileNotFoundError, match=r"step8 \(give --subfolder\)"):
        locate_source(tmp_path)
    assert locate_source(tmp_path, "step8") == tmp_path / "step8"
    (tmp_path / "step8").rename(tmp_path / "VideoXL_weight_8")
    assert locate_source(tmp_path).name == "VideoXL_weight_8"


def test_pickled_weights_only_when_asked_for(published, converted, tmp_path):
    tensors = published.tensors()
    published.remove_weights()
    names = sorted(tensors)
    files = {"pytorch_model-00001-of-00002.bin": names[:60], "pytorch_model-00002-of-00002.bin": names[60:]}
    for file, held in files.items():
        torch.save({name: tensors[name] for name in held}, published.folder / file)
    index = {"weight_map": {name: file for file, held in files.items() for name in held}}
    (published.folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="--allow-bin"):
        published.convert(tmp_path / "dest")
    published.convert(tmp_path / "dest", allow_bin=True)
    expected, written = WeightFiles(converted), WeightFiles(tmp_path / "dest")
    values = {name: tensor for file in written.files for name, tensor in written.read(file)}
    assert all(torch.equal(tensor, values[name]) for file in expected.files for name, tensor in expected.read(file))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_trapped_weights_file_runs_nothing(published, tmp_path, wrapped):
    published.remove_weights()
    trap = Trap(tmp_path / "was_here")
    path = published.folder / "pytorch_model.bin"
    torch.save({"model.norm.weight": trap}, path) if wrapped else path.write_bytes(pickle.dumps(trap))
    with pytest.raises(ValueError, match="weights_only"):
        published.convert(tmp_path / "dest", allow_bin=True)
    assert not (tmp_path / "was_here").exists() and not (tmp_path / "dest").exists()


@pytest.mark.parametrize("name", ["../model.safetensors", "training_args.bin", "/etc/passwd", 7, None])
def test_an_index_cannot_lead_elsewhere(tmp_path, name):
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"index"):
        WeightFiles(tmp_path, allow_bin=True)


def test_broken_weights_are_named(published, tmp_path):
    shard = published.folder / "model-00003-of-00008.safetensors"
    whole = shard.read_bytes()
    for content in (whole[:-100], whole[:5], b""):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=shard.name):
            published.convert(tmp_path / "dest")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        published.convert(tmp_path / "dest")
    published.remove_weights()
    with pytest.raises(FileNotFoundError, match=r"neither .*index.* nor model\.safetensors"):
        published.convert(tmp_path / "dest")
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "two.safetensors")
    (tmp_path / INDEX_NAME).write_text('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}')
    with pytest.raises(ValueError, match="stored twice"):
        WeightFiles(tmp_path)


def test_killed_conversion_leaves_nothing_that_looks_whole(published, tmp_path):
    dest = tmp_path / "dest"
    killed = run(KILLED_BEFORE_THE_END, published.folder, dest, CLIP)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not dest.exists()
    assert list(tmp_path.glob(".dest.unfinished-*/dest/model-*.safetensors"))
    assert not list(tmp_path.glob(".dest.unfinished-*/dest/config.json"))
    published.convert(dest)
    assert (dest / "config.json").is_file()


def test_destination_is_replaced_only_when_asked_and_only_if_ours(published, tmp_path):
    dest = tmp_path / "dest"
    dest.mkdir()
    published.convert(dest)
    with pytest.raises(FileExistsError, match="--overwrite"):
        published.convert(dest)
    (dest / "old").touch()
    published.convert(dest, overwrite=True)
    assert not (dest / "old").exists() and (dest / "config.json").is_file()
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "monday.txt").write_text("dear diary")
    with pytest.raises(FileExistsError, match="never overwritten"):
        published.convert(diary, overwrite=True)
    assert (diary / "monday.txt").read_text() == "dear diary"
    with pytest.raises(FileExistsError, match="never overwritten"):
        published.convert(published.folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def published_name(name: str) -> str:
    name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
    for number, linear in ((0, "linear_1"), (2, "linear_2")):
        name = name.replace(f"model.multi_modal_projector.{linear}", f"model.mm_projector.{number}")
    return name.replace("model.language_model.", "model.")


def test_peak_memory_stays_near_the_largest_shard(published, tmp_path):
    """One shard of 32 MB for each of eight layers: holding them all would take eight times as much as one."""
    original = json.loads((published.folder / "config.json").read_text())
    original |= {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8}
    published.change_config(**original)
    config = VideoXLConfig(**translate_original_config(original, resolve_vision_config(original, CLIP), 503))
    shapes = {published_name(name): shape for name, shape in target_shapes(config).items()}
    published.remove_weights()
    index = {}
    for name in shapes:
        layer = re.match(r"model\.layers\.(\d)", name)
        index[name] = f"model-{layer[1] if layer else 'rest'}.safetensors"
    for file in set(index.values()):
        tensors = {name: torch.full(shape, 0.01) for name, shape in shapes.items() if index[name] == file}
        save_file(tensors, published.folder / file)
    (published.folder / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    sizes = [file.stat().st_size for file in published.folder.glob("model-*.safetensors")]

    done = run(PEAK_MEMORY, published.folder, tmp_path / "dest", CLIP)
    assert done.returncode == 0, done.stderr
    assert sum(sizes) > 8 * max(sizes)
    assert max(sizes) / 2 < int(done.stdout) < 2 * max(sizes)  # less than half would mean that nothing was measured
