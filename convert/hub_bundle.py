"""A model folder into a flat Hub repository, which loads with `trust_remote_code=True` without videoxl installed."""

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import HFValidationError, validate_repo_id

from videoxl import modeling_videoxl, pipelines, processing
from videoxl.convert.checkpoint_conversion import target_shapes
from videoxl.convert.conversion_plan import ConversionError
from videoxl.convert.destination import new_folder
from videoxl.convert.model_card import model_card
from videoxl.convert.weight_files import INDEX_NAME, WeightFiles
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.processing.processing_videoxl import VideoXLProcessor

CODE_PACKAGES = (modeling_videoxl, processing, pipelines)

MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_videoxl.VideoXLConfig",
    "AutoModel": "backbone_videoxl.VideoXLModel",
    "AutoModelForCausalLM": "modeling_videoxl.VideoXLForCausalLM",
    "AutoModelForImageTextToText": "modeling_videoxl.VideoXLForCausalLM",
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_videoxl.VideoXLProcessor"}
IMAGE_PROCESSOR_AUTO_MAP = {"AutoImageProcessor": "image_processing_videoxl.VideoXLImageProcessor"}
VIDEO_PROCESSOR_AUTO_MAP = {"AutoVideoProcessor": "video_processing_videoxl.VideoXLVideoProcessor"}
CUSTOM_PIPELINES = {
    "video-question-answering": {
        "impl": "pipeline_videoxl.VideoQuestionAnsweringPipeline",
        "pt": ["AutoModelForCausalLM"],
    }
}
# What a model folder holds that a bundle needs; a training run's own files are never fetched.
MODEL_FILES = ("*.json", "*.jinja", "model*.safetensors", "vocab.json", "merges.txt")


def export_hub(
    model: str | os.PathLike,
    dest: str | os.PathLike,
    push: str | None = None,
    overwrite: bool = False,
    private: bool = False,
) -> Path:
    """
    Makes the bundle: weights, configuration with `auto_map` and `custom_pipelines`, code, processor, model card.

    Args:
        model: a folder with a Video-XL model and its processor (what `convert_checkpoint` makes), or such a Hub id.
        dest: the folder to make; it appears only when it is whole.
        push: a repository (`user/name`) to upload the bundle to; it is created if it is not there.
        overwrite: replace a Video-XL folder that is there already.
        private: whether a repository that `push` creates is private.

    Returns:
        `Path`: `dest`.

    Raises:
        ConversionError: if the weights are not those of the folder's configuration, under our names.
        FileExistsError, FileNotFoundError, ValueError: for a destination, a file or a name that will not do.
        RuntimeError: if the upload fails; the bundle is in `dest` all the same.
    """
    if push is not None:
        _validate_repo(push)
    folder = Path(model) if Path(model).is_dir() else _download(str(model))
    config = _read_config(folder)
    weights = WeightFiles(folder)
    _check_names(weights, config)
    with new_folder(dest, overwrite) as work:
        for file in code_files().values():
            shutil.copyfile(file, work / file.name)
        for file in [*weights.files, folder / INDEX_NAME, folder / "generation_config.json"]:
            if file.is_file():
                shutil.copyfile(file, work / file.name)
        _write_processor(folder, work)
        config.architectures = ["VideoXLForCausalLM"]
        config.save_pretrained(work)
        _add_to_json(work / "config.json", {"auto_map": MODEL_AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
        (work / "README.md").write_text(model_card(config, weights, push), encoding="utf-8")
    if push is not None:
        _upload(Path(dest), push, private)
    return Path(dest)


def code_files() -> dict[str, Path]:
    """
    The modules that the Hub serves, by file name: those of the model, the processing and the pipeline.

    Raises:
        RuntimeError: if two of them have the same name; they all go into one folder.
    """
    files: dict[str, Path] = {}
    for package in CODE_PACKAGES:
        for file in sorted(Path(package.__file__).parent.glob("*_videoxl.py")):
            if file.name in files:
                raise RuntimeError(f"{file} and {files[file.name]} have the same name: rename one of them.")
            files[file.name] = file
    return files


def _read_config(folder: Path) -> VideoXLConfig:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json.")
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if values.get("model_type") != "videoxl":
        raise ValueError(f"{folder} holds no Video-XL model of ours: convert it first (videoxl convert).")
    return VideoXLConfig.from_pretrained(folder)


def _check_names(weights: WeightFiles, config: VideoXLConfig) -> None:
    stored = {name: tensor.shape for name, tensor in weights.tensors.items()}
    expected = target_shapes(config)
    wrong = sorted({name for name, _ in set(stored.items()) ^ set(expected.items())})
    if wrong:
        raise ConversionError(
            f"The weights are not those of the configuration; {len(wrong)} tensors differ: {', '.join(wrong[:10])}"
            f"{', …' if len(wrong) > 10 else ''}. Save the model again with save_pretrained, or convert it again."
        )


def _write_processor(folder: Path, work: Path) -> None:
    VideoXLProcessor.from_pretrained(folder).save_pretrained(work)
    _add_to_json(
        work / "processor_config.json",
        {
            "auto_map": PROCESSOR_AUTO_MAP,
            "image_processor": {"auto_map": IMAGE_PROCESSOR_AUTO_MAP},
            "video_processor": {"auto_map": VIDEO_PROCESSOR_AUTO_MAP},
        },
    )


def _add_to_json(path: Path, additions: dict) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, addition in additions.items():
        inner = values.get(name)
        values[name] = inner | addition if isinstance(inner, dict) else addition
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _download(repo_id: str) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(MODEL_FILES)))
    except Exception as error:  # the client raises many kinds, for bad ids as for a missing network
        raise ValueError(f"{repo_id!r} is no folder here, and could not be had from the Hub: {error}") from error


def _validate_repo(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"push={repo_id!r} is no name of a Hub repository: {error}") from error


def _upload(folder: Path, repo_id: str, private: bool) -> None:
    api = HfApi()
    try:
        api.create_repo(repo_id, exist_ok=True, private=private)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload Video-XL")
    except Exception as error:  # the client raises many kinds: no token, no rights, no network
        raise RuntimeError(f"The bundle is whole in {folder}, but {repo_id} did not take it: {error}") from error
