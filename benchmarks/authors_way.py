"""The authors' way of computing Video-XL, restated from its description: plain torch functions over a state dict.

A reference for tests and the other side of ``benchmarks/prefill.py``. It shares nothing with the package's model:

- kept keys are stored unrotated, and the whole memory is rotated at every layer of every pass, at compact positions;
- the causal mask is materialised (float, additive), K/V heads are repeated, attention is torch's sdpa;
- every layer runs for every row of every pass, and so do the final norm and (unless ``all_logits=False``) the LM head.

One sequence at a time; no batch dimension: rows are ``[T, D]``. Everything is differentiable; callers choose
``torch.no_grad()``. Weights are named as in ``VideoXLForCausalLM.state_dict()``; ``from_published_keys`` renames the
authors' names.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Segment = tuple[str, "Tensor | Sequence[int]"]


@dataclass(frozen=True)
class Hyper:
    """What the computation needs beside the weights. ``window`` counts visual tokens."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    window: int

    @classmethod
    def from_dict(cls, config: Mapping) -> "Hyper":
        """Reads the published ``config.json`` or our ``config.text_config.to_dict()``."""
        heads = config["num_attention_heads"]
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        return cls(
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            norm_eps=config["rms_norm_eps"],
            rope_theta=theta,
            window=config["beacon_window"],
        )


@dataclass
class CacheSizes:
    """Kept K/V entries: ``sink`` (before the first visual token), ``beacon`` (VSTs), ``raw`` (all others)."""

    sink: int = 0
    beacon: int = 0
    raw: int = 0

    @property
    def total(self) -> int:
        return self.sink + self.beacon + self.raw


@dataclass
class Result:
    """What ``run`` gives for the S original rows (VST rows left out), and what is kept at the end."""

    hidden: Tensor  # [S, D], after the final norm
    logits: Tensor  # [S, V]; [1, V], the last row's, where ``all_logits`` is off
    sizes: CacheSizes


def from_published_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's tensors of a published checkpoint under our names (vision tower and projector left out)."""
    ours = {}
    for key, tensor in weights.items():
        if key.startswith(("model.vision_tower.", "model.mm_projector.")):
            continue
        ours[key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key] = tensor
    return ours


def load_published(folder: str | Path) -> tuple[dict[str, Tensor], Hyper]:
    """Weights (our names) and settings of a folder in the published layout (sharded safetensors, ``config.json``)."""
    from safetensors.torch import load_file

    folder = Path(folder)
    weights: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(shard))
    return from_published_keys(weights), Hyper.from_dict(json.loads((folder / "config.json").read_text()))


def split_windows(tokens: int, window: int) -> list[int]:
    """Lengths of a span's windows: all full but the last."""
    return [min(window, tokens - start) for start in range(0, tokens, window)]


def vst_rows(tokens: int, ratio: int, carry: int, closing: bool = False) -> tuple[Tensor, int]:
    """Where the VSTs stand among a window's rows, and what the window leaves over.

    The first VST comes after ``ratio - carry`` visual tokens, then one after every ``ratio``. A carry that a larger
    ratio left counts as ``ratio - 1``. ``closing`` puts one more VST at the end if anything is left over.

    Returns a bool ``[tokens + VSTs]``, True at VSTs, and the new carry.
    """
    if ratio == 0:
        return torch.zeros(tokens, dtype=torch.bool), 0
    carry = min(carry, ratio - 1)
    is_vst: list[bool] = []
    for token in range(1, tokens + 1):
        is_vst.append(False)
        if (token + carry) % ratio == 0:
            is_vst.append(True)
    left = (tokens + carry) % ratio
    if closing and left > 0:
        is_vst.append(True)
        left = 0
    return torch.tensor(is_vst, dtype=torch.bool), left


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[T, D] -> [T, D]; the mean of squares in float32."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotary_tables(length: int, hyper: Hyper, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0 .. length - 1, each [length, head_dim], in ``like``'s dtype and device."""
    exponents = torch.arange(0, hyper.head_dim, 2, device=like.device, dtype=torch.float32) / hyper.head_dim
    angles = torch.outer(
        torch.arange(length, device=like.device, dtype=torch.float32), hyper.rope_theta**-exponents
    )  # [length, head_dim / 2]
    angles = torch.cat([angles, angles], dim=-1)  # [length, head_dim]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[H, T, d] turned by the tables [T, d]; a pair is made of elements i and i + d / 2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def causal_mask(new: int, kept: int, like: Tensor) -> Tensor:
    """Additive [new, kept + new]: row i sees everything kept and the new rows 0 .. i."""
    mask = torch.full((new, kept + new), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return mask.triu_(kept + 1)


class AuthorsWay:
    """One sequence's computation and its memory (unrotated K/V of every layer, ``[KV heads, kept, head_dim]``)."""

    def __init__(self, weights: Mapping[str, Tensor], hyper: Hyper, all_logits: bool = True):
        self.weights = weights
        self.hyper = hyper
        self.all_logits = all_logits
        self.sizes = CacheSizes()
        empty = weights["model.language_model.norm.weight"].new_empty(hyper.kv_heads, 0, hyper.head_dim)
        self.memory = [(empty, empty) for _ in range(hyper.layers)]
        self._seen_visual = False

    # -- the passes -----------------------------------------------------------------------------------------------

    def text(self, ids: "Tensor | Sequence[int]") -> tuple[Tensor, Tensor]:
        """One ordinary pass over token ids [T]; all K/V kept. Returns ``hidden`` [T, D] and ``logits`` [T, V]."""
        table = self._weight("embed_tokens.weight")
        rows = F.embedding(torch.as_tensor(ids, dtype=torch.long, device=table.device), table)  # [T, D]
        hidden = self._pass(rows, None, None)
        if self._seen_visual:
            self.sizes.raw += len(rows)
        else:
            self.sizes.sink += len(rows)
        return hidden, self._head(hidden)

    def window(
        self, features: Tensor, ratio: int, carry: int = 0, closing: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """One window of visual features [m, D] with its VSTs; the VSTs' K/V are kept (all K/V with ratio 0).

        Returns ``hidden`` and ``logits`` of all rows, the bool [T] that is True at VSTs, and the new carry.
        """
        is_vst, carry = vst_rows(len(features), ratio, carry, closing)
        is_vst = is_vst.to(features.device)
        rows = features.new_empty(len(is_vst), features.shape[-1])  # [T, D]
        rows[~is_vst] = features
        rows[is_vst] = self._weight("beacon_embed_tokens.weight").expand(int(is_vst.sum()), -1)
        hidden = self._pass(rows, is_vst, is_vst if ratio else None)
        self._seen_visual = True
        if ratio:
            self.sizes.beacon += int(is_vst.sum())
        else:
            self.sizes.raw += len(features)
        return hidden, self._head(hidden), is_vst, carry

    def span(self, features: Tensor, ratios: Sequence[int], summarize_remainder: bool = False):
        """One visual span [n, D], window by window; yields each window's ``hidden``, ``logits`` and VST places."""
        carry = start = 0
        lengths = split_windows(len(features), self.hyper.window)
        for number, (length, ratio) in enumerate(zip(lengths, ratios, strict=True), start=1):
            closing = summarize_remainder and number == len(lengths)
            *outputs, carry = self.window(features[start : start + length], ratio, carry, closing)
            yield tuple(outputs)
            # A generator keeps its locals between steps: one pass's logits must not outlive the pass.
            del outputs
            start += length

    # -- whole sequences ------------------------------------------------------------------------------------------

    def prefill(self, prefix_ids, features: Tensor, ratios: "int | Sequence[int]", summarize_remainder=False) -> None:
        """Prefix text, then one visual span, into the memory. What the passes answer is computed and let go."""
        if len(prefix_ids):
            self.text(prefix_ids)
        (per_span,) = self._ratios([len(features)], ratios)
        # A loop variable would hold one window's logits while the next window is computed.
        deque(self.span(features, per_span, summarize_remainder), maxlen=0)

    def step(self, ids: "Tensor | Sequence[int]") -> Tensor:
        """One more text pass; its logits [T, V] ([1, V] where ``all_logits`` is off)."""
        return self.text(ids)[1]

    def greedy(self, suffix_ids: "Tensor | Sequence[int]", count: int) -> tuple[list[int], Tensor]:
        """Suffix text, then ``count`` greedy tokens (no end token stops it), with their logits [count, V]."""
        tokens: list[int] = []
        rows: list[Tensor] = []
        ids = suffix_ids
        for _ in range(count):
            rows.append(self.step(ids)[-1])
            tokens.append(int(rows[-1].argmax()))
            ids = tokens[-1:]
        return tokens, torch.stack(rows)

    def run(
        self, segments: Sequence[Segment], ratios: "int | Sequence[int]" = 8, summarize_remainder: bool = False
    ) -> Result:
        """Text and visual spans in any order.

        Args:
            segments: ``("text", ids [T])`` and ``("visual", features [n, D])`` in the sequence's order.
            ratios: one for all windows, or one per window over all spans in order; 0 keeps all K/V of a window.
            summarize_remainder: one more VST after what a span leaves over.

        Raises:
            ValueError: a list of ratios whose length is not the number of windows.
        """
        lengths = [len(content) for kind, content in segments if kind == "visual"]
        per_span = iter(self._ratios(lengths, ratios))
        hidden: list[Tensor] = []
        logits: list[Tensor] = []
        for kind, content in segments:
            if kind == "text":
                passes = [(*self.text(content), None)] if len(content) else []
            else:
                passes = self.span(content, next(per_span), summarize_remainder)
            for states, scores, is_vst in passes:
                original = slice(None) if is_vst is None else ~is_vst
                hidden.append(states[original])
                logits.append(scores[original] if self.all_logits else scores)
        all_hidden = torch.cat(hidden)
        if not self.all_logits:
            return Result(all_hidden, self._project_head(all_hidden[-1:]), self.sizes)
        return Result(all_hidden, torch.cat(logits), self.sizes)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _weight(self, name: str) -> Tensor:
        return self.weights[f"model.language_model.{name}"]

    def _ratios(self, spans: Sequence[int], ratios: "int | Sequence[int]") -> list[list[int]]:
        counts = [len(split_windows(tokens, self.hyper.window)) for tokens in spans]
        flat = [ratios] * sum(counts) if isinstance(ratios, int) else list(ratios)
        if len(flat) != sum(counts):
            raise ValueError(f"{len(flat)} ratios for {sum(counts)} windows: give one per window, or a single integer")
        rest = iter(flat)
        return [[next(rest) for _ in range(count)] for count in counts]

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits of every row [T, V]; of none of a window's and the last of a text's rows where switched off."""
        return self._project_head(hidden if self.all_logits else hidden[-1:])

    def _project_head(self, hidden: Tensor) -> Tensor:
        head = self.weights.get("lm_head.weight")
        return F.linear(hidden, self._weight("embed_tokens.weight") if head is None else head)

    def _pass(self, rows: Tensor, is_vst: Tensor | None, keep: Tensor | None) -> Tensor:
        """All layers and the final norm over new rows [T, D]; appends the K/V of rows ``keep`` (None: all)."""
        kept = self.sizes.total
        tables = rotary_tables(kept + len(rows), self.hyper, rows)
        mask = causal_mask(len(rows), kept, rows)
        for number in range(self.hyper.layers):
            rows = self._layer(number, rows, is_vst, keep, tables, mask)
        return rms_norm(rows, self._weight("norm.weight"), self.hyper.norm_eps)

    def _layer(self, number: int, rows: Tensor, is_vst, keep, tables, mask: Tensor) -> Tensor:
        name = f"layers.{number}."
        normed = rms_norm(rows, self._weight(f"{name}input_layernorm.weight"), self.hyper.norm_eps)
        rows = rows + self._attention(number, normed, is_vst, keep, tables, mask)
        normed = rms_norm(rows, self._weight(f"{name}post_attention_layernorm.weight"), self.hyper.norm_eps)
        gate = F.silu(F.linear(normed, self._weight(f"{name}mlp.gate_proj.weight")))
        up = F.linear(normed, self._weight(f"{name}mlp.up_proj.weight"))
        return rows + F.linear(gate * up, self._weight(f"{name}mlp.down_proj.weight"))

    def _attention(self, number: int, rows: Tensor, is_vst, keep, tables, mask: Tensor) -> Tensor:
        """Attention of new rows [T, D] over memory and themselves; grows the layer's memory."""
        query, key, value = (self._heads(number, part, rows, is_vst) for part in "qkv")  # [H or KV, T, d]
        old_key, old_value = self.memory[number]
        kept_rows = slice(None) if keep is None else keep
        self.memory[number] = (
            torch.cat([old_key, key[:, kept_rows]], dim=1),
            torch.cat([old_value, value[:, kept_rows]], dim=1),
        )
        cos, sin = tables
        new = len(rows)
        query = rotate(query, cos[-new:], sin[-new:])
        key = rotate(torch.cat([old_key, key], dim=1), cos, sin)  # the whole memory, every time
        value = torch.cat([old_value, value], dim=1)  # [KV, kept + T, d]
        group = self.hyper.heads // self.hyper.kv_heads
        mixed = F.scaled_dot_product_attention(
            query[None],
            key.repeat_interleave(group, dim=0)[None],
            value.repeat_interleave(group, dim=0)[None],
            attn_mask=mask[None, None],
        )[0]  # [H, T, d]
        return F.linear(mixed.transpose(0, 1).flatten(1), self._weight(f"layers.{number}.self_attn.o_proj.weight"))

    def _heads(self, number: int, part: str, rows: Tensor, is_vst: Tensor | None) -> Tensor:
        """q, k or v of the rows, [heads, T, head_dim]: VST rows through the beacon projection where there is one."""
        own = f"layers.{number}.self_attn.beacon_{part}_proj"
        if f"model.language_model.{own}.weight" not in self.weights:
            is_vst = None
        plain = self._linear(f"layers.{number}.self_attn.{part}_proj", rows if is_vst is None else rows[~is_vst])
        if is_vst is not None:
            beacon = self._linear(own, rows[is_vst])
            mixed = rows.new_empty(len(rows), plain.shape[-1])
            mixed[~is_vst] = plain
            mixed[is_vst] = beacon
            plain = mixed
        return plain.unflatten(-1, (-1, self.hyper.head_dim)).transpose(0, 1)

    def _linear(self, name: str, rows: Tensor) -> Tensor:
        return F.linear(rows, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"))
