"""How the rows of one pass attend to what is kept and to each other."""

from collections.abc import Sequence

import torch
from transformers.models.qwen2.modeling_qwen2 import repeat_kv


def take_rows(states: torch.Tensor, rows: Sequence[slice], dim: int = 1) -> torch.Tensor:
    """The rows that the slices name, in order, along `dim`: strided views, joined only where there are several."""
    parts = [states[(slice(None),) * dim + (part,)] for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def can_split(implementation: str, query: torch.Tensor, past: torch.Tensor | None, padded: bool) -> bool:
    """
    Whether `attend_split` can stand in for masked sdpa: the kernel that also returns the log-sum-exp is the CPU's,
    knows no gradient of it, no padding, and nothing of autocast.
    """
    return (
        implementation == "sdpa"
        and past is not None
        and not padded
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and query.device.type == "cpu"
    )


def attend_split(
    query: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor],
    present: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
) -> torch.Tensor:
    """
    Causal attention of a pass to everything kept and to itself, with no mask and no copy of what is kept.

    The memory is seen whole by every row and the pass causally by itself; softmax over both is the mean of the two
    results weighted by their sums of exponentials. A mask over both would be the larger part of the work.

    Args:
        query: `[B, H, q, d]`.
        past: keys and values kept before, `[B, H_kv, entries, d]`.
        present: keys and values of the pass, `[B, H_kv, q, d]`.

    Returns:
        `torch.Tensor`: `[B, q, H, d]`, as the attention interface of transformers returns it.
    """
    batch, heads, rows, dim = query.shape
    kv_heads = present[0].shape[1]
    groups = heads // kv_heads
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    # A group's query heads share their keys: as more rows of one head they need no repeated memory.
    folded = query.reshape(batch, kv_heads, groups * rows, dim)  # [B, H_kv, G·q, d]
    seen, seen_lse = flash(folded, *past, 0.0, False, scale=scaling)
    seen = seen.reshape(batch, heads, rows, dim)  # [B, H, q, d]
    seen_lse = seen_lse.reshape(batch, heads, rows)  # [B, H, q]
    own, own_lse = flash(query, *(repeat_kv(states, groups) for states in present), 0.0, True, scale=scaling)
    weight = torch.sigmoid(seen_lse - own_lse)[..., None].to(own.dtype)  # [B, H, q, 1]
    return own.lerp_(seen, weight).transpose(1, 2)


def beacon_mask(
    rows: Sequence[slice], kept: int, total: int, padding: torch.Tensor | None, like: torch.Tensor, additive: bool
) -> torch.Tensor:
    """
    The causal mask of the VST rows alone, `[1 or B, 1, VSTs, kept + total]`.

    Args:
        rows: where the VSTs stand among the pass's `total` rows.
        kept: entries before the pass.
        padding: `[B, kept + total]`, True for what is no padding; None where nothing is padded.
        like: gives device, and dtype of an additive mask.
        additive: 0 and the dtype's smallest number (eager attention) in place of True and False.
    """
    index = torch.arange(kept + total, device=like.device)
    mask = (index[None] <= take_rows(index[kept:], rows, dim=0)[:, None])[None, None]
    if padding is not None:
        mask = mask & padding[:, None, None]
    if not additive:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, torch.finfo(like.dtype).min)
