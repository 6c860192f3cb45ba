"""A new Video-XL from a plain Qwen2 and a CLIP vision tower, ready to be trained."""

import os
from collections.abc import Sequence

import torch
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from videoxl.checkpoints import naming_checkpoint
from videoxl.convert.checkpoint_conversion import target_shapes
from videoxl.convert.destination import new_folder
from videoxl.convert.processor_files import build_processor
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.original_layout_videoxl import fit_vocabulary_rows
from videoxl.modeling_videoxl.vision_videoxl import VideoXLProjector

from .encoding import TURN_END, TURN_START

RATIOS = (2, 4, 8, 12, 16)
WINDOW_FRAMES = 10
NOT_OF_TEXT = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")


def assemble(
    text_model: str | os.PathLike,
    vision_model: str | os.PathLike,
    dest: str | os.PathLike,
    window: int | None = None,
    ratios: Sequence[int] = RATIOS,
    pool_stride: int = 2,
    feature_layer: int = -2,
    seed: int = 0,
    overwrite: bool = False,
) -> VideoXLConfig:
    """
    Writes a Video-XL checkpoint with its processor. Texts it answers as the Qwen2 does; seeing it has to learn.

    The VST's embedding starts as that of the end-of-turn token, the VSTs' projections as copies of q, k and v, and the
    projector at random. The placeholders are the first two ids behind the tokenizer's; the embedding grows where it
    has no room for them.

    Args:
        text_model: folder or Hub id of a Qwen2 with its tokenizer.
        vision_model: folder or Hub id of a CLIP, or of its vision tower alone.
        dest: the folder to make.
        window: visual tokens of a window; by default 10 frames' worth.
        ratios: compression ratios of training.
        pool_stride: pooling over a frame's patches.
        feature_layer: which of CLIP's hidden states the projector gets.
        seed: of the projector's weights.
        overwrite: replace a Video-XL folder that is there already.

    Raises:
        ValueError: for models of other kinds, and for settings that do not go together.
        OSError: naming the model that cannot be loaded.
        FileExistsError: for a `dest` that holds something.
    """
    with naming_checkpoint("TEXT_MODEL", str(text_model)):
        text, tokenizer = _text_parts(text_model)
    with naming_checkpoint("VISION_MODEL", str(vision_model)):
        vision = CLIPVisionModel.from_pretrained(vision_model, dtype=text.dtype)
    with new_folder(dest, overwrite) as work:
        settings = {"spatial_pool_stride": pool_stride, "vision_feature_layer": feature_layer}
        config = _configuration(text, vision, tokenizer, window, ratios, settings)
        tensors = _tensors(text, vision, config, seed)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        wanted = target_shapes(config)
        if shapes != wanted:
            wrong = sorted(set(shapes.items()) ^ set(wanted.items()))
            raise ValueError(f"{text_model} and {vision_model} are no plain Qwen2 and CLIP: {wrong[:6]}")
        save_torch_state_dict(tensors, work)
        config.save_pretrained(work)
        build_processor(tokenizer, config, vision_model).save_pretrained(work)
        end = config.text_config.eos_token_id
        GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id).save_pretrained(work)
    return config


def _text_parts(name: str | os.PathLike):
    kind = AutoConfig.from_pretrained(name).model_type
    if kind != "qwen2":
        raise ValueError(f"{name} is a {kind} model: the language model of Video-XL is a Qwen2")
    tokenizer = _tokenizer(name)
    missing = [token for token in (TURN_START, TURN_END) if token not in tokenizer.get_added_vocab()]
    if missing:
        raise ValueError(f"the tokenizer of {name} has no {' and no '.join(missing)}, with which turns begin and end")
    return AutoModelForCausalLM.from_pretrained(name, dtype="auto"), tokenizer


def _tokenizer(name: str | os.PathLike) -> PreTrainedTokenizerBase:
    """
    AutoTokenizer makes a Qwen2Tokenizer of whatever a Qwen2 has, with its own way to split texts into words. A
    tokenizer that says of itself that all of it is in its file stays as it is.
    """
    whole = get_tokenizer_config(name).get("tokenizer_class") == TokenizersBackend.__name__
    return (TokenizersBackend if whole else AutoTokenizer).from_pretrained(name)


def _configuration(text, vision, tokenizer, window, ratios, settings: dict) -> VideoXLConfig:
    first = len(tokenizer)
    fields = {name: value for name, value in text.config.to_dict().items() if name not in NOT_OF_TEXT}
    fields["vocab_size"] = max(text.config.vocab_size, first + 2)
    fields |= {"eos_token_id": tokenizer.get_added_vocab()[TURN_END], "beacon_ratio": list(ratios)}
    common = {
        # where it was loaded from is a matter of this machine
        "vision_config": {k: v for k, v in vision.config.to_dict().items() if k != "_name_or_path"},
        "image_token_id": first,
        "video_token_id": first + 1,
        "tie_word_embeddings": text.config.tie_word_embeddings,
        "architectures": ["VideoXLForCausalLM"],
        "dtype": str(text.dtype).removeprefix("torch."),
        **settings,
    }
    try:
        if window is None:
            tokens = VideoXLConfig(text_config={**fields, "beacon_ratio": [1]}, **common).tokens_per_frame
            window = WINDOW_FRAMES * tokens
        default = min(ratios, key=lambda ratio: abs(ratio - 8))
        return VideoXLConfig(
            text_config={**fields, "beacon_window": window}, default_compression_ratio=default, **common
        )
    except StrictDataclassError as error:
        raise ValueError(f"these models and settings do not go together: {error}") from error


@torch.no_grad()
def _tensors(
    text: PreTrainedModel, vision: PreTrainedModel, config: VideoXLConfig, seed: int
) -> dict[str, torch.Tensor]:
    """Every tensor of the new checkpoint by name."""
    rows, tensors = config.text_config.vocab_size, {}
    for name, tensor in text.state_dict().items():
        tensors[name.replace("model.", "model.language_model.", 1)] = tensor
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = fit_vocabulary_rows(tensors[name], rows)
    end = config.text_config.eos_token_id
    table = tensors["model.language_model.embed_tokens.weight"]
    tensors["model.language_model.beacon_embed_tokens.weight"] = table[end : end + 1].clone()
    for name in list(tensors):
        for own in config.text_config.beacon_param:
            if f".self_attn.{own}_proj." in name:
                tensors[name.replace(f".{own}_proj.", f".beacon_{own}_proj.")] = tensors[name].clone()
    tensors |= {f"model.vision_tower.{name}": tensor for name, tensor in vision.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = VideoXLProjector(config).to(text.dtype)
    return tensors | {f"model.multi_modal_projector.{name}": t for name, t in projector.state_dict().items()}
