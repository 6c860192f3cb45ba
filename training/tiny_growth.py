"""Widens the small checkpoint: it computes what it did, and has dimensions and heads that nothing uses yet."""

import torch
from torch import nn

from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM


def widened(
    model: VideoXLForCausalLM, dimensions: int, heads_each: int, key_heads: int, units: int, attention: str = "eager"
) -> VideoXLForCausalLM:
    """
    A wider model that says the same.

    All that is new reads nothing and writes nothing. Norms divide by the root mean square over more dimensions: their
    weights make up for that, as long as what will be written to the new dimensions is small beside the old ones.

    Args:
        model: with tied embeddings and rotary heads, two queries or more to a key.
        dimensions: of the residual stream, all together.
        heads_each: queries to a key; the first of each head of keys are the model's own.
        key_heads: heads of keys, all together; the first are the model's own.
        units: of feed-forward layers, all together; the first are the model's own.
        attention: implementation of the result.

    Raises:
        ValueError: if one of them is less than the model has.
    """
    old = model.config.text_config
    width = model.model.language_model.layers[0].self_attn.head_dim
    had = (
        old.hidden_size,
        old.num_attention_heads // old.num_key_value_heads,
        old.num_key_value_heads,
        old.intermediate_size,
    )
    wanted = (dimensions, heads_each, key_heads, units)
    if any(new < own for new, own in zip(wanted, had)):
        raise ValueError(f"{wanted} is narrower than the model, which has {had}")
    values = model.config.to_dict()
    values["text_config"] |= {
        "hidden_size": dimensions,
        "num_attention_heads": heads_each * key_heads,
        "num_key_value_heads": key_heads,
        "head_dim": width,
        "intermediate_size": units,
    }
    wide = VideoXLForCausalLM._from_config(VideoXLConfig(**values), attn_implementation=attention)
    wide.generation_config = model.generation_config
    own_heads = [heads_each * head + place for head in range(had[2]) for place in range(had[1])]
    queries = torch.cat([torch.arange(width) + width * head for head in own_heads])
    given = model.state_dict()
    with torch.no_grad():
        for name, parameter in wide.state_dict().items():
            _fill(name, parameter, given[name], queries)
    return wide.to(model.dtype)


def _fill(name: str, wide: torch.Tensor, own: torch.Tensor, queries: torch.Tensor) -> None:
    """Puts a tensor of the narrow model where the wide one has it; the rest is 0."""
    if wide.shape == own.shape:
        wide.copy_(own)
        return
    wide.zero_()
    if "norm" in name:
        wide[: len(own)] = own * (len(own) / len(wide)) ** 0.5
        wide[len(own) :] = 0.0 if name.endswith("language_model.norm.weight") else 1.0  # words are told as before
    elif "q_proj" in name:
        wide[queries, ...] = nn.functional.pad(own, (0, wide.shape[1] - own.shape[1])) if own.dim() > 1 else own
    elif "o_proj" in name:
        wide[: len(own), queries] = own
    else:
        wide[tuple(slice(size) for size in own.shape)] = own
