"""The model's parts by name: which are trained, whole or through adapters."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

PARTS = {
    "projector": r"multi_modal_projector\.",
    "vision_tower": r"vision_tower\.",
    "language_model": r"language_model\.(?!.*beacon_)",
    "beacons": r"language_model\..*beacon_",
    "lm_head": r"lm_head\.",
}
ALL_PARTS = tuple(PARTS)

# The language model's projections and the VSTs' own; CLIP has q_proj, k_proj and v_proj, too, and is not meant.
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.((beacon_)?[qkv]|o)_proj|mlp\.(gate|up|down)_proj)"
LORA_WHOLE = {"beacons": "beacon_embed_tokens", "projector": "multi_modal_projector", "lm_head": "lm_head"}


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale and dropout of the adapters."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "LoraSettings":
        """
        Raises:
            ValueError: for a name or a value that there cannot be.
        """
        known = [one.name for one in fields(cls)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"lora has no setting {unknown[0]!r}: it has {', '.join(known)}")
        settings = cls(**given)
        if settings.rank < 1 or settings.alpha < 1 or not 0 <= settings.dropout < 1:
            raise ValueError(
                f"lora={asdict(settings)}: rank and alpha are at least 1, dropout is at least 0 and below 1"
            )
        return settings


def check_parts(names: Iterable[str]) -> None:
    """Raise a `ValueError` for a part that the model has not, naming the nearest."""
    if isinstance(names, str) or not list(names):
        raise ValueError(f"trained_parts={names!r}: give a list of some of {', '.join(PARTS)}")
    for name in names:
        if name not in PARTS:
            near = difflib.get_close_matches(str(name), PARTS, n=1, cutoff=0.0)
            raise ValueError(f"trained_parts: there is no part {name!r}: did you mean {near[0]!r}?")


def train_only(model: nn.Module, names: Iterable[str]) -> None:
    """
    Freeze all of `model` but the named parts.

    A head that is tied to the embedding is trained with it, under either name.
    """
    check_parts(names)
    patterns = [re.compile(PARTS[name]) for name in names]
    model.requires_grad_(False)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if any(pattern.search(name) for pattern in patterns):
            parameter.requires_grad_(True)


def with_adapters(model: nn.Module, settings: LoraSettings, names: Iterable[str]) -> nn.Module:
    """
    `model` with LoRA adapters in the language model and the VSTs' projections, through peft.

    Of the named parts the VST's embedding, the projector and the head are trained whole and saved with the adapters.
    """
    from peft import LoraConfig, get_peft_model

    if "vision_tower" in names:
        raise ValueError("lora: the vision tower cannot be among trained_parts: adapters are for the language model")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=LORA_TARGETS,
        modules_to_save=[module for part, module in LORA_WHOLE.items() if part in names or part == "beacons"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
