"""The language model of Video-XL: Qwen2 with projections of their own for VST rows, run pass by pass over a cache."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    eager_attention_forward,
)

from .attention_videoxl import ROOM, StaticEntries, attend_split, beacon_mask, can_split, take_rows
from .cache_videoxl import VideoXLCache, VideoXLCacheLayer
from .configuration_videoxl import VideoXLConfig, VideoXLTextConfig
from .threads_videoxl import LayerThread
from .windows_videoxl import Segment

ALL, BEACONS, NONE = "all", "beacons", "none"  # the rows of a pass whose output a layer computes


def rotate(states: torch.Tensor, embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding of `[B, H, q, d]` with what `VideoXLRotaryEmbedding` gives, `[1 or B, 1, q, d]` each."""
    cos, sin = embeddings
    return added(states * cos, states.roll(states.shape[-1] // 2, -1) * sin)


def added(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The sum, over `own` where no gradient needs it: a window's temporaries cost more than the arithmetic on them."""
    return own + other if torch.is_grad_enabled() else own.add_(other)


class VideoXLAttention(nn.Module):
    """Qwen2's attention with `beacon_{q,k,v}_proj` in place of `{q,k,v}_proj` for VST rows."""

    def __init__(self, config: VideoXLTextConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        widths = {
            "q": config.num_attention_heads * self.head_dim,
            "k": config.num_key_value_heads * self.head_dim,
            "v": config.num_key_value_heads * self.head_dim,
        }
        for name, width in widths.items():
            setattr(self, f"{name}_proj", nn.Linear(config.hidden_size, width, bias=True))
        for name in config.beacon_param:
            setattr(self, f"beacon_{name}_proj", nn.Linear(config.hidden_size, widths[name], bias=True))
        self.o_proj = nn.Linear(widths["q"], config.hidden_size, bias=False)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)  # [B, H, q, d]

    def project(self, name: str, hidden: torch.Tensor, beacons: Sequence[tuple[slice, torch.Tensor]]) -> torch.Tensor:
        """
        Queries, keys or values of every row, `[B, q, D]` to `[B, H, q, d]`.

        Args:
            beacons: rows of VSTs, and what of `hidden` they are.
        """
        states = getattr(self, f"{name}_proj")(hidden)
        if name in self.config.beacon_param:
            for rows, own in beacons:
                states[:, rows] = getattr(self, f"beacon_{name}_proj")(own)
        return self._heads(states)

    def project_beacons(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Queries, keys or values of VST rows, `[B, VSTs, D]` to `[B, H, VSTs, d]`."""
        own = f"beacon_{name}_proj" if name in self.config.beacon_param else f"{name}_proj"
        return self._heads(getattr(self, own)(hidden))

    def forward(
        self,
        hidden: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
        segment: Segment,
        wanted: str,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        kept_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        split: bool,
        cache_layer: VideoXLCacheLayer | None,
        static: StaticEntries | None,
        **kwargs,
    ):
        """
        See `VideoXLDecoderLayer.forward`.

        Returns:
            The output of the wanted rows `[B, wanted, D]`, and the keys and values to keep, `[B, H_kv, kept, d]`, or
            None for both where they are in the cache already.
        """
        beacons = [(rows, hidden[:, rows]) for rows in segment.beacon_rows]
        keys, values = self.project("k", hidden, beacons), self.project("v", hidden, beacons)
        alone = wanted == BEACONS and attention_mask is not None  # without a mask VST rows go with all the others
        if alone:
            query = self.project_beacons("q", take_rows(hidden, segment.beacon_rows))
            query = rotate(query, tuple(take_rows(part, segment.beacon_rows, dim=2) for part in position_embeddings))
        else:
            query = rotate(self.project("q", hidden, beacons), position_embeddings)
        rotated = rotate(keys, position_embeddings)  # [B, H_kv, q, d]
        if segment.beacons:
            kept = (
                rotate(take_rows(keys, segment.beacon_rows, dim=2), kept_embeddings),
                take_rows(values, segment.beacon_rows, dim=2),
            )
        elif segment.ratio:
            kept = (rotated[:, :, :0], values[:, :, :0])
        else:
            kept = (rotated, values)
        if static is not None:
            output, kept = static.attend(query, rotated, values, self.scaling), (None, None)
        elif split:
            output = attend_split(query, past, (rotated, values), self.scaling, attention_mask)
            output = output if alone or wanted == ALL else take_rows(output, segment.beacon_rows)
        else:
            if cache_layer is not None:
                rotated, values = cache_layer.update(rotated, values)
                kept = (None, None)
            elif past is not None:
                rotated, values = torch.cat((past[0], rotated), dim=2), torch.cat((past[1], values), dim=2)
            interface = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
            output, _ = interface(
                self,
                query,
                rotated,
                values,
                attention_mask,
                dropout=self.attention_dropout if self.training else 0.0,
                scaling=self.scaling,
                **kwargs,
            )
        output = self.o_proj(output.reshape(*output.shape[:2], -1))  # [B, wanted, D]
        return output, *kept


class VideoXLRMSNorm(Qwen2RMSNorm):
    """Qwen2's; in float32, where it rounds alike, as torch's one fused operation: see `added`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.dtype != torch.float32 or torch.is_grad_enabled():
            return super().forward(hidden)
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)


class VideoXLMLP(Qwen2MLP):
    """Qwen2's; where no gradient needs what lies between, it is overwritten: see `added`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or self.config.hidden_act != "silu":
            return super().forward(hidden)
        gate = nn.functional.silu(self.gate_proj(hidden), inplace=True)
        return self.down_proj(gate.mul_(self.up_proj(hidden)))


class VideoXLDecoderLayer(GradientCheckpointingLayer):
    """
    One layer over one pass. It gets what is kept as arguments and returns what is to be kept: a cache written inside
    would be written again when gradient checkpointing runs the layer a second time.
    """

    def __init__(self, config: VideoXLTextConfig, layer_idx: int):
        super().__init__()
        self.self_attn = VideoXLAttention(config, layer_idx)
        self.mlp = VideoXLMLP(config)
        self.input_layernorm = VideoXLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = VideoXLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden: torch.Tensor,
        past_keys: torch.Tensor | None,
        past_values: torch.Tensor | None,
        segment: Segment,
        wanted: str,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        kept_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        split: bool = False,
        cache_layer: VideoXLCacheLayer | None = None,
        static: StaticEntries | None = None,
        **kwargs,
    ):
        """
        Args:
            hidden: `[B, q, D]`; under `NONE` only the rows that are kept.
            past_keys, past_values: what is kept, keys rotated, `[B, H_kv, entries, d]`.
            segment: the pass: where VSTs stand, what is kept of it.
            wanted: rows whose output is used by anything: `ALL`, `BEACONS`, or `NONE` (keys and values only).
            position_embeddings: of the rows' positions, see `VideoXLRotaryEmbedding`, `[1 or B, 1, q, d]` each.
            kept_embeddings: the same at the compact positions of what is kept, `[1 or B, 1, kept, d]` each.
            attention_mask: of the wanted rows, as the attention implementation takes it.
            split: attend by `attend_split`; a mask is then that of VST rows over the pass alone.
            cache_layer: where keys and values are written at once, when no gradient is wanted and all are kept.
            static: in place of all that is kept, for a pass of one token over buffers of a fixed size.

        Returns:
            Output of the wanted rows, or None; and keys and values to keep, `[B, H_kv, kept, d]`, or None.
        """
        if wanted == NONE:
            return None, *self._kept_only(hidden, segment, kept_embeddings)
        past = None if past_keys is None else (past_keys, past_values)
        attended, keys, values = self.self_attn(
            self.input_layernorm(hidden),
            past,
            segment,
            wanted,
            position_embeddings,
            kept_embeddings,
            attention_mask,
            split,
            cache_layer,
            static,
            **kwargs,
        )
        residual = take_rows(hidden, segment.beacon_rows) if wanted == BEACONS else hidden
        hidden = added(attended, residual)
        return added(self.mlp(self.post_attention_layernorm(hidden)), hidden), keys, values

    def _kept_only(self, hidden: torch.Tensor, segment: Segment, kept_embeddings):
        normed = self.input_layernorm(hidden)
        if segment.beacons:
            keys, values = (self.self_attn.project_beacons(name, normed) for name in "kv")
        else:
            keys, values = (self.self_attn.project(name, normed, ()) for name in "kv")
        return rotate(keys, kept_embeddings), values


class VideoXLPreTrainedModel(PreTrainedModel):
    """What all models of this family share."""

    config_class = VideoXLConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoXLDecoderLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache", "cache_layer"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False):
        # Modules without parameters of their own are passed over in code from outside transformers, in case that it
        # ignores what is loaded already. `_init_weights` here does not, and attention is such a module.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Beyond the usual: VST projections start as copies of q, k, v, the VST as the end-of-turn token."""
        super()._init_weights(module)
        if isinstance(module, VideoXLAttention):
            for name in module.config.beacon_param:
                own, shared = getattr(module, f"beacon_{name}_proj"), getattr(module, f"{name}_proj")
                init.copy_(own.weight, shared.weight)
                init.copy_(own.bias, shared.bias)
        elif isinstance(module, VideoXLTextModel):
            end = module.config.eos_token_id
            end = end[0] if isinstance(end, list) else end
            if module.config.beacon_embed_init == "eos" and end is not None:
                init.copy_(module.beacon_embed_tokens.weight, module.embed_tokens.weight[end : end + 1])


class VideoXLRotaryEmbedding(Qwen2RotaryEmbedding):
    """Qwen2's, whose frequencies stay float32 under `model.to(bfloat16)`: rounded to 8 bits they would be off by whole
    turns after a few hundred positions."""

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Positions `[1 or B, q]` to cosines and sines as `rotate` wants them, `[1 or B, 1, q, d]`: for all heads, and
        sines with the sign that the halves of a head take when they change places. Made once for all layers.
        """
        cos, sin = super().forward(hidden, positions)  # [1 or B, q, d]
        first, second = sin.chunk(2, -1)
        return cos.unsqueeze(1), torch.cat((-first, second), -1).unsqueeze(1)

    def _apply(self, fn, recurse=True):
        exact = {name: buffer for name, buffer in self.named_buffers() if buffer.device.type != "meta"}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class VideoXLTextModel(VideoXLPreTrainedModel):
    """Embeddings, decoder layers and final norm; one call is one pass over a piece of text or one visual window."""

    config_class = VideoXLTextConfig
    input_modalities = ("text",)

    def __init__(self, config: VideoXLTextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.beacon_embed_tokens = nn.Embedding(1, config.hidden_size)
        self.layers = nn.ModuleList(VideoXLDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = VideoXLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = VideoXLRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def interleave(self, embeds: torch.Tensor, segment: Segment) -> torch.Tensor:
        """Puts the VSTs of a window between its visual tokens, `[B, m, D]` to `[B, m + VSTs, D]`."""
        if not segment.beacons:
            return embeds
        batch, _, width = embeds.shape
        beacon = self.beacon_embed_tokens(torch.zeros(1, 1, dtype=torch.long, device=embeds.device))
        # Under a device map the table may lie elsewhere than the projector that made the features.
        beacon = beacon.to(embeds.device, embeds.dtype).expand(batch, 1, width)  # [B, 1, D]
        parts, position = [], 0
        if segment.regular:
            position = segment.first + (segment.regular - 1) * segment.ratio
            groups = embeds[:, segment.first : position].view(batch, -1, segment.ratio, width)  # [B, k - 1, r, D]
            groups = torch.cat((groups, beacon[:, None].expand(-1, groups.shape[1], -1, -1)), dim=2)
            parts = [embeds[:, : segment.first], beacon, groups.flatten(1, 2)]
        parts.append(embeds[:, position:])
        return torch.cat((*parts, *([beacon] if segment.closing else [])), dim=1)

    @staticmethod
    def without_beacons(hidden: torch.Tensor, segment: Segment) -> torch.Tensor:
        """Leaves the VSTs' rows out, `[B, m + VSTs, D]` to `[B, m, D]`."""
        if not segment.beacons:
            return hidden
        batch, _, width = hidden.shape
        hidden = hidden[:, : hidden.shape[1] - segment.closing]
        if not segment.regular:
            return hidden
        step = segment.ratio + 1
        end = segment.first + (segment.regular - 1) * step + 1  # behind the last regular VST
        groups = hidden[:, segment.first + 1 : end].view(batch, -1, step, width)[:, :, :-1]  # [B, k - 1, r, D]
        return torch.cat((hidden[:, : segment.first], groups.flatten(1, 2), hidden[:, end:]), dim=1)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        segment: Segment,
        cache: VideoXLCache,
        hidden_needed: bool = True,
        output_hidden_states: bool = False,
        later: LayerThread | None = None,
        **kwargs,
    ):
        """
        One pass; appends what is kept of it to `cache`.

        Args:
            inputs_embeds: embeddings or visual features of the pass's original tokens, `[B, m, D]`.
            segment: the pass.
            cache: what is kept so far, for all B rows.
            hidden_needed: whether anybody asks for the pass's output. If not, the last layer makes keys and values
                only, and the last but one computes VST rows only: nothing else of a window is ever used.
            output_hidden_states: collect the input of every layer, and the normed output.
            later: takes the window, whose output nobody asks for, through the second half of the layers meanwhile.

        Returns:
            `tuple`: the normed output `[B, m, D]`, or None; and the hidden states, a tuple, or None.
        """
        hidden = self.interleave(inputs_embeds, segment)
        positions = cache.positions(segment.rows, hidden.device)
        embeddings = self.rotary_emb(hidden, positions)
        kept_embeddings = tuple(part[:, :, : segment.kept] for part in embeddings)  # compact: the first positions
        masks = self._masks(hidden, segment, cache)
        collected = [] if output_hidden_states else None
        through = partial(
            self._through,
            segment=segment,
            cache=cache,
            hidden_needed=hidden_needed,
            masks=masks,
            collected=collected,
            position_embeddings=embeddings,
            kept_embeddings=kept_embeddings,
            **kwargs,
        )
        first = (len(self.layers) - 1) // 2 if later is not None else 0  # the last layer has next to nothing to do
        hidden = through(hidden, range(first or len(self.layers)))
        cache.advance(segment.length, segment.kept, segment.visual, segment.ratio > 0)
        if first:
            later.take_on(partial(through, hidden, range(first, len(self.layers))))
        if not hidden_needed:
            return None, None
        hidden = self.norm(self.without_beacons(hidden, segment))
        return hidden, (*collected, hidden) if output_hidden_states else None

    def _through(
        self,
        hidden: torch.Tensor,
        layers: range,
        segment: Segment,
        cache: VideoXLCache,
        hidden_needed: bool,
        masks: dict,
        collected: list[torch.Tensor] | None,
        **kwargs,
    ) -> torch.Tensor | None:
        """Takes a pass through some of the layers, and has `cache` keep what is kept of it there."""
        for index in layers:
            if collected is not None:
                collected.append(self.without_beacons(hidden, segment))
            wanted = ALL if hidden_needed else self._wanted(index, segment)
            if wanted == NONE and segment.beacons and hidden.shape[1] == segment.rows:
                hidden = take_rows(hidden, segment.beacon_rows)
            kept = cache.layers_now[index]
            in_place = wanted == ALL and not segment.ratio and not torch.is_grad_enabled() and not masks["split"]
            hidden, keys, values = self.layers[index](
                hidden,
                kept.keys,
                kept.values,
                segment=segment,
                wanted=wanted,
                attention_mask=masks[wanted],
                split=masks["split"],
                cache_layer=kept if in_place else None,
                **kwargs,
            )
            if keys is not None and segment.kept:
                kept.update(keys, values)
        return hidden

    def step(
        self,
        tokens: torch.LongTensor,
        entries: list[tuple[torch.Tensor, torch.Tensor]],
        place: torch.LongTensor,
        padding: torch.LongTensor,
        split: bool,
    ) -> torch.Tensor:
        """
        A pass over one more token of every row, whose work is the same for every token: see `StaticDecoding`.

        Args:
            tokens: `[B, 1]`.
            entries: of each layer, keys and values as in `StaticEntries`; the token's are written there.
            place: `[1]`, where they belong.
            padding: entries of every row that are padding, `[1 or B, 1]`.
            split: see `StaticEntries`; nothing may be padded then.

        Returns:
            `torch.Tensor`: the normed output, `[B, 1, D]`.
        """
        hidden = self.embed_tokens(tokens)  # [B, 1, D]
        embeddings = self.rotary_emb(hidden, place - padding)
        index = torch.arange(entries[0][0].shape[2], device=tokens.device)
        index = index[-ROOM:] if split else index
        mask = ((index <= place) & (index >= padding))[:, None, None]  # [1 or B, 1, 1, entries]
        for layer, (keys, values) in zip(self.layers, entries):
            hidden, _, _ = layer(
                hidden,
                None,
                None,
                segment=Segment(0, 1),
                wanted=ALL,
                position_embeddings=embeddings,
                kept_embeddings=embeddings,
                attention_mask=None,
                static=StaticEntries(keys, values, place, mask, split),
            )
        return self.norm(hidden)

    def _wanted(self, index: int, segment: Segment) -> str:
        """Rows of layer `index` that anything depends on, when nobody asks for the pass's output."""
        layers_behind = len(self.layers) - 1 - index
        if layers_behind == 0:
            return NONE
        maskable = self.config._attn_implementation in ("eager", "sdpa")
        return BEACONS if layers_behind == 1 and segment.beacons and maskable else ALL

    def _masks(self, hidden: torch.Tensor, segment: Segment, cache: VideoXLCache) -> dict:
        implementation, rows, kept = self.config._attn_implementation, segment.rows, cache.physical_length
        padding = cache.padding_mask(rows, hidden.device)
        past, heads = cache.layers_now[0].keys if kept else None, self.config.num_attention_heads
        split = rows > 1 and not self.training and can_split(implementation, past, heads, padding is not None)
        masks = {"split": split, NONE: None, ALL: None, BEACONS: None}
        if not split:
            masks[ALL] = create_causal_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=padding, past_key_values=cache
            )
        # On a GPU one layer's attention of all rows is less than a mask, and keys repeated for it.
        if segment.beacons and implementation in ("eager", "sdpa") and not (split and hidden.is_cuda):
            additive, seen = split or implementation == "eager", 0 if split else kept
            masks[BEACONS] = beacon_mask(segment.beacon_rows, seen, rows, padding, hidden, additive)
        return masks
