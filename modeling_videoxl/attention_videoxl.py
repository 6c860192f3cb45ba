"""How the rows of one pass attend to what is kept and to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention

ROOM = 128  # entries behind what is kept that decoding over buffers of a fixed size fills before it takes new ones
KEPT_AND_ROOM = slice(None, -ROOM), slice(-ROOM, None)


def take_rows(states: torch.Tensor, rows: Sequence[slice], dim: int = 1) -> torch.Tensor:
    """The rows that the slices name, in order, along `dim`: strided views, joined only where there are several."""
    parts = [states[(slice(None),) * dim + (part,)] for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def can_split(implementation: str, past: torch.Tensor | None, heads: int, padded: bool) -> bool:
    """
    Whether `attend_split` can stand in for masked sdpa: the kernels that also return the log-sum-exp know no gradient
    of it, no padding, and nothing of autocast; on a GPU they are flash attention's, for two-byte floats alone.

    Args:
        past: keys kept before, `[B, H_kv, entries, d]`, or None.
        heads: H of the queries.
    """
    if implementation != "sdpa" or past is None or padded or torch.is_grad_enabled():
        return False
    if torch.is_autocast_enabled(past.device.type):
        return False
    return past.device.type == "cpu" or (past.is_cuda and _flash_takes(past, heads))


def _flash_takes(keys: torch.Tensor, heads: int) -> bool:
    """Whether a GPU's flash attention takes queries of `heads` heads to these keys, going by what it says itself."""
    query = keys.new_empty(keys.shape[0], heads, 1, keys.shape[3])
    asked = SDPAParams(query, keys, keys, None, 0.0, False, True)
    return keys.shape[3] % 8 == 0 and can_use_flash_attention(asked)  # sdpa pads other head sizes, the kernel not


def _flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    causal: bool,
    mask: torch.Tensor | None = None,
):
    """
    Flash attention without repeating the keys that all rows see: output `[B, H, q, d]` and log-sum-exp `[B, H, q]`.

    Args:
        causal: row `i` sees entries `0` to `i`, of as many as there are rows; else all rows see all entries.
        mask: in place of either, additive, `[1, 1, q, entries]`; the CPU's kernel alone takes one.
    """
    if query.is_cuda:  # the kernel lets a group of query heads share keys by itself
        return torch.ops.aten._scaled_dot_product_flash_attention(query, keys, values, 0.0, causal, scale=scaling)[:2]
    batch, heads, rows, dim = query.shape
    groups, kernel = heads // keys.shape[1], torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if causal or mask is not None:
        repeated = (states.repeat_interleave(groups, dim=1) for states in (keys, values))
        return kernel(query, *repeated, 0.0, causal, attn_mask=mask, scale=scaling)
    # A group's query heads share their keys: as more rows of one head they need no repeated memory.
    folded = query.reshape(batch, -1, groups * rows, dim)  # [B, H_kv, G·q, d]
    output, lse = kernel(folded, keys, values, 0.0, False, scale=scaling)
    return output.reshape(query.shape), lse.reshape(batch, heads, rows)


def _joined(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """
    Attention to two sets of entries from the attention to each, both as output `[B, H, q, d]` and log-sum-exp
    `[B, H, q]`: the mean weighted by the sums of exponentials. Written over the first output.
    """
    weight = torch.sigmoid(second[1] - first[1])[..., None].to(first[0].dtype)  # [B, H, q, 1]
    return first[0].lerp_(second[0], weight)


def attend_split(
    query: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor],
    present: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Causal attention of a pass to everything kept and to itself, with no mask over what is kept and no copy of it.

    The memory is seen whole by every row and the pass causally by itself; softmax over both is the mean of the two
    results weighted by their sums of exponentials. A mask over both would be the larger part of the work, and repeated
    keys the larger part of the memory.

    Args:
        query: `[B, H, q, d]`.
        past: keys and values kept before, `[B, H_kv, entries, d]`.
        present: keys and values of the pass, `[B, H_kv, rows, d]`.
        mask: where the query is some of the pass's rows, what these see of it, as in `_flash`; else all are queries.

    Returns:
        `torch.Tensor`: `[B, q, H, d]`, as the attention interface of transformers returns it.
    """
    seen, own = _flash(query, *past, scaling, False), _flash(query, *present, scaling, mask is None, mask)
    return _joined(own, seen).transpose(1, 2)


@dataclass
class StaticEntries:
    """
    One layer's keys and values in decoding over buffers of a fixed size, see `StaticDecoding`.

    Args:
        keys, values: `[B, H_kv, entries, d]`: what is kept, and behind it `ROOM` entries, of which some are written.
        place: `[1]`, where the next token's keys and values belong.
        mask: `[1 or B, 1, 1, entries]`, True for what the token sees; under `split` of the room alone.
        split: whether all that was kept when the room was made is seen by every row, so that it needs no mask.
    """

    keys: torch.Tensor
    values: torch.Tensor
    place: torch.Tensor
    mask: torch.Tensor
    split: bool

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Writes a token's keys and values `[B, H_kv, 1, d]`, and attends: `[B, H, 1, d]` to `[B, 1, H, d]`."""
        self.keys.index_copy_(2, self.place, keys)
        self.values.index_copy_(2, self.place, values)
        if not self.split:
            return self._masked(query, self.keys, self.values, scaling)[0].transpose(1, 2)
        kept, room = ([states[:, :, part] for states in (self.keys, self.values)] for part in KEPT_AND_ROOM)
        own, seen = self._masked(query, *room, scaling), _flash(query, *kept, scaling, False)
        return _joined(own, seen).transpose(1, 2)

    def _masked(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float):
        """Output `[B, H, 1, d]` and log-sum-exp `[B, H, 1]`; a group's heads are rows of one head, as in `_flash`."""
        folded = query.reshape(keys.shape[0], keys.shape[1], -1, keys.shape[3])  # [B, H_kv, G, d]
        scores = (folded @ keys.transpose(2, 3)).float() * scaling  # [B, H_kv, G, entries]
        scores = scores.masked_fill(~self.mask, float("-inf"))
        lse = scores.logsumexp(-1, keepdim=True)  # [B, H_kv, G, 1]
        output = (scores - lse).exp().to(values.dtype) @ values  # [B, H_kv, G, d]
        return output.reshape(query.shape), lse.reshape(query.shape[:3])


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
