"""The Hub bundle answers without our package as it does with it, from a folder and from a repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from videoxl.convert.checkpoint_conversion import convert_checkpoint
from videoxl.convert.conversion_plan import ConversionError
from videoxl.convert.hub_bundle import code_files, export_hub

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "authors_tiny" / "checkpoint"

NO_PACKAGE = """
try:
    import videoxl
except ModuleNotFoundError as error:
    assert error.name == "videoxl", error
else:
    raise SystemExit(f"videoxl is importable here, from {videoxl.__file__}: this would prove nothing")
home = "transformers_modules"
"""
WITH_PACKAGE = """
import videoxl
home = "videoxl"
"""
LOAD_AND_ASK = """
import json, sys
from safetensors.torch import save_file
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor,
    pipeline,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

bundle, film, out = sys.argv[1:]
autos = (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoImageProcessor,
         AutoVideoProcessor)
loaded = {auto.__name__: auto.from_pretrained(bundle, trust_remote_code=True) for auto in autos}
assert all(type(part).__module__.startswith(home) for part in loaded.values()), loaded
model, processor = loaded["AutoModelForCausalLM"], loaded["AutoProcessor"]
inputs = processor(text="<video>What happens?", videos=film, num_frames=15)
save_file({"logits": model(**inputs, compression_ratio=4).logits}, f"{out}/logits.safetensors")

pipe = pipeline("video-question-answering", model=bundle, trust_remote_code=True)
picture = f"{out}/picture.png"
short = {"num_frames": 20, "max_new_tokens": 6}
answers = pipe(video=film, question=["What happens?", "Who is it?"], return_memory=True, **short)
answers.append(pipe(images=picture, question="What is this?", max_new_tokens=6))
print(json.dumps([(answer["answer"], answer.get("memory", {}).get("kept")) for answer in answers]))
"""
SAVE_AND_LOAD_AGAIN = """
model.save_pretrained(f"{out}/again")
processor.save_pretrained(f"{out}/again")
model = AutoModelForCausalLM.from_pretrained(f"{out}/again", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(f"{out}/again", trust_remote_code=True)
inputs = processor(text="<video>What happens?", videos=film, num_frames=15)
save_file({"logits": model(**inputs, compression_ratio=4).logits}, f"{out}/logits_again.safetensors")
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    dest = tmp_path_factory.mktemp("hub") / "converted"
    convert_checkpoint(CHECKPOINT, dest, vision_tower=CHECKPOINT / "clip")
    return dest


@pytest.fixture(scope="module")
def bundle(converted) -> Path:
    return export_hub(converted, converted.parent / "bundle")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Forty frames of a square that moves."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(40):
            picture = np.full((64, 96, 3), 40, np.uint8)
            picture[20:40, number : number + 20] = (200, 5 * number, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def folder_with_picture(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    Image.linear_gradient("L").resize((120, 70)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def expected(bundle, film, tmp_path_factory) -> tuple[list, torch.Tensor]:
    """What the installed package makes of the same bundle."""
    out = folder_with_picture(tmp_path_factory.mktemp("expected") / "out")
    done = subprocess.run(
        [sys.executable, "-c", WITH_PACKAGE + LOAD_AND_ASK, bundle, film, out],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HOME": str(out / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), load_file(out / "logits.safetensors")["logits"]


@pytest.mark.parametrize("served", ["folder", "repository"])
def test_bundle_answers_without_the_package(served, bundle, film, expected, run_clean, tmp_path):
    name = bundle
    if served == "repository":  # as it lies in the client's cache after a download
        name = "someone/video-xl-tiny"
        cached = tmp_path / "hf_home" / "hub" / "models--someone--video-xl-tiny"
        shutil.copytree(bundle, cached / "snapshots" / ("b" * 40))
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("b" * 40)
    out = folder_with_picture(tmp_path / "out")
    printed = run_clean(NO_PACKAGE + LOAD_AND_ASK + SAVE_AND_LOAD_AGAIN, name, film, out)
    answers = json.loads(printed.splitlines()[-1])
    assert answers == expected[0]
    assert answers[0][1]["beacons"] == 10 and len({answer for answer, _ in answers}) > 1
    for name in ("logits", "logits_again"):
        assert torch.equal(load_file(out / f"{name}.safetensors")["logits"], expected[1])
    resaved = [load_file(file) for file in (out / "again").glob("*.safetensors")]
    assert {key for part in resaved for key in part} == set(weights_of(bundle))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


def test_bundle_is_flat_and_whole(bundle, converted):
    assert all(path.is_file() for path in bundle.iterdir())
    names = {path.name for path in bundle.iterdir()}
    assert names >= {*code_files(), "README.md", "chat_template.jinja", "generation_config.json", "tokenizer.json"}
    assert (bundle / "generation_config.json").read_text() == (converted / "generation_config.json").read_text()
    config = json.loads((bundle / "config.json").read_text())
    assert set(config["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForImageTextToText",
    }
    assert config["custom_pipelines"]["video-question-answering"]["pt"] == ["AutoModelForCausalLM"]
    references = [*config["auto_map"].values(), config["custom_pipelines"]["video-question-answering"]["impl"]]
    assert all(f"{reference.split('.')[0]}.py" in names for reference in references)
    assert weights_of(bundle).keys() == weights_of(converted).keys()


def test_model_card_states_this_model(bundle):
    card = (bundle / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert "library_name: transformers" in front and "pipeline_tag: video-text-to-text" in front
    assert "$" not in body
    parameters = sum(tensor.numel() for tensor in weights_of(bundle).values())
    assert f"| parameters | {parameters:,} |" in body
    assert "| window | 48 visual tokens (12 frames) |" in body
    assert f"| memory per kept token | {3 * 2 * 2 * 16 * 2} bytes" in body
    assert "## Limits" in body and "trust_remote_code=True" in body


def test_what_is_no_model_of_ours_is_refused(converted, tmp_path):
    with pytest.raises(ValueError, match="convert it first"):
        export_hub(CHECKPOINT, tmp_path / "dest")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        export_hub(tmp_path, tmp_path / "dest")
    shutil.copytree(converted, tmp_path / "spoilt")
    shard = tmp_path / "spoilt" / "model-00001-of-00008.safetensors"
    save_file({f"base_model.{key}": tensor for key, tensor in load_file(shard).items()}, shard)
    with pytest.raises(ConversionError, match=r"base_model\.model"):
        export_hub(tmp_path / "spoilt", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_push_is_checked_before_and_leaves_the_bundle(converted, tmp_path):
    with pytest.raises(ValueError, match="no name of a Hub repository"):
        export_hub(converted, tmp_path / "dest", push="not a/repo/name")
    assert not (tmp_path / "dest").exists()
    program = "import sys; from videoxl.convert.hub_bundle import export_hub; export_hub(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, converted, tmp_path / "dest", "someone/video-xl"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert "someone/video-xl did not take it" in done.stderr
    assert 'model="someone/video-xl"' in (tmp_path / "dest" / "README.md").read_text()


def test_an_existing_folder_is_not_overwritten(converted, bundle):
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_hub(converted, bundle)
