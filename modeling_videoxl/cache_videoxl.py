"""The cache of Video-XL: what is kept of a sequence that was longer than what is kept.

A visual span goes in as thousands of tokens and stays as the keys and values of a few VSTs, so the cache has two
lengths: the logical one, tokens of `input_ids` that it stands for, which is what `generate` asks for; and the physical
one, entries held, which is what attention asks for. Keys are stored rotated at their compact position, which never
changes because what is kept grows at the end only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from transformers.cache_utils import Cache, DynamicLayer

from .threads_videoxl import LayerThread

GROWTH = 256  # entries by which a full buffer grows, so that decoding copies the memory once in that many tokens


class _Buffer:
    """Keys and values with room at the end, `[B, H, capacity, D]`; `filled` entries are somebody's."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, filled: int):
        self.keys, self.values, self.filled, self.shared = keys, values, filled, False

    def accepts(self, start: int, stop: int) -> bool:
        """Whether entries `start` to `stop` can be written in place without harm to another cache."""
        frozen = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        return self.filled == start and stop <= self.keys.shape[2] and not frozen


class VideoXLCacheLayer(DynamicLayer):
    """
    Keys and values of one layer, `[B, H, entries, D]`.

    Without gradients they live in a buffer that grows by blocks and that copies share until one of them writes where
    another has written; with gradients they are concatenated, because autograd needs what it has seen untouched.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._buffer: _Buffer | None = None
        self._reserved = 0
        self._room = 0  # entries behind what is held that somebody was given to write to

    @property
    def length(self) -> int:
        """Entries held."""
        return self.keys.shape[2] if self.is_initialized else 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def reserve(self, entries: int) -> None:
        """Has the next buffer made large enough for `entries` in all, so that a prefill never outgrows it."""
        self._reserved = entries

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """
        Appends `key_states` and `value_states`, `[B, H, n, D]`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: everything held, `[B, H, length + n, D]`.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._close_room()
        if torch.is_grad_enabled():
            self._buffer = None
            self.keys = torch.cat((self.keys, key_states), dim=2)
            self.values = torch.cat((self.values, value_states), dim=2)
            return self.keys, self.values
        start, stop = self.length, self.length + key_states.shape[2]
        if self._buffer is None or not self._buffer.accepts(start, stop):
            self._grow(stop)
        self._buffer.keys[:, :, start:stop] = key_states
        self._buffer.values[:, :, start:stop] = value_states
        self._buffer.filled = stop
        self._view(stop)
        return self.keys, self.values

    def open_room(self, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Everything held and `entries` more, zeros, for somebody to write into and to report to `fill_room`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: keys and values, `[B, H, length + entries, D]`, the layer's own. They
            are nobody's any more once the layer has been changed or shared in another way: `room` is 0 then.
        """
        self._close_room()
        start, stop = self.length, self.length + entries
        if self._buffer is None or not self._buffer.accepts(start, stop):
            self._grow(stop)
        self._buffer.filled, self._room = stop, entries  # no copy that shares the buffer may write there
        opened = self._buffer.keys[:, :, :stop], self._buffer.values[:, :, :stop]
        for states in opened:
            states[:, :, start:].zero_()  # what was never written may be no number, which no mask makes harmless
        return opened

    @property
    def room(self) -> int:
        """Entries of the room that are left."""
        return self._room

    def fill_room(self, entries: int) -> None:
        """Takes up as held what was written into the room."""
        self._room -= entries
        self._view(self.length + entries)

    def _close_room(self) -> None:
        if self._room:
            self._buffer.filled, self._room = self.length, 0

    def _grow(self, entries: int) -> None:
        batch, heads, length, dim = self.keys.shape
        capacity = max(entries, self._reserved) + GROWTH
        buffer = _Buffer(
            self.keys.new_empty(batch, heads, capacity, dim),
            self.values.new_empty(batch, heads, capacity, self.values.shape[3]),
            length,
        )
        buffer.keys[:, :, :length] = self.keys
        buffer.values[:, :, :length] = self.values
        self._buffer = buffer

    def _view(self, length: int) -> None:
        self.keys, self.values = self._buffer.keys[:, :, :length], self._buffer.values[:, :, :length]

    def crop(self, tokens_to_remove: int) -> None:
        """Drops the last entries; `tokens_to_remove` is negative or 0, as everywhere in transformers."""
        if not tokens_to_remove or not self.is_initialized:
            return
        self._close_room()
        length = self.length + tokens_to_remove
        self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]
        if self._buffer is not None and not self._buffer.shared:
            self._buffer.filled = length

    def share(self) -> "VideoXLCacheLayer":
        """A layer that holds the same entries; neither sees what the other appends."""
        self._close_room()
        other = type(self)()
        if self.is_initialized:
            other.lazy_initialization(self.keys, self.values)
            other.keys, other.values, other._buffer = self.keys, self.values, self._buffer
            if self._buffer is not None:
                self._buffer.shared = True
        return other

    def map(self, change) -> None:
        """Replaces keys and values by `change` of them, which may alter the batch and the entries."""
        if self.is_initialized:
            self.keys, self.values, self._buffer, self._room = change(self.keys), change(self.values), None, 0

    def reset(self) -> None:
        self.keys = self.values = self._buffer = None
        self.is_initialized, self._reserved, self._room = False, 0, 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.map(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.map(lambda states: states[indices.to(states.device)])


@dataclass
class _Row:
    """What one row of the batch holds, counted in entries: `padding` of them stand left of the row's first."""

    padding: int = 0
    leading_text: int = 0  # before the first visual token: the sink, once there is one
    beacons: int = 0
    visual: int = 0  # visual tokens kept raw, under ratio 0
    text: int = 0  # after the first visual token
    visual_seen: int = 0
    tail: int = 0  # text since the last visual token: what can be rolled back


class VideoXLCache(Cache):
    """
    Keys and values of the sink, the VSTs and the raw text, in sequence order, for every layer.

    A copy costs nothing until it grows, so that the memory of one video answers many questions:

    ```python
    memory = model.prefill_video(prefix_ids, chunks)
    answers = [model.generate(ids, past_key_values=memory.copy()) for ids in prompts]
    ```

    Args:
        num_layers (`int`): layers of the language model.
    """

    def __init__(self, num_layers: int):
        self.under_way: LayerThread | None = None  # that still works on the later layers
        super().__init__(layers=[VideoXLCacheLayer() for _ in range(num_layers)])
        self._logical_length = 0
        self._rows: list[_Row] = []

    @property
    def layers(self) -> list[VideoXLCacheLayer]:
        """Every layer's entries; who asks waits for windows that are under way."""
        if self.under_way is not None:
            self.under_way.wait()
        return self.layers_now

    @layers.setter
    def layers(self, layers: list[VideoXLCacheLayer]) -> None:
        self.layers_now = layers  # of which later ones may be some windows behind

    # Lengths

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of `input_ids` that the cache stands for, left padding of a batch included."""
        return self._logical_length

    @property
    def physical_length(self) -> int:
        """Entries held per layer, left padding of a batch included."""
        return self.layers_now[0].length

    @property
    def batch_size(self) -> int:
        """Rows held; 0 before the first pass."""
        return len(self._rows)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Entries before the next token: what the causal mask starts from."""
        return self.physical_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that `query_length` new tokens meet, and the index of the first."""
        return self.physical_length + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: the cache grows."""
        return -1

    # What a pass needs and leaves

    def start(self, batch_size: int) -> None:
        """Makes an empty cache ready for `batch_size` rows, or checks that it holds that many."""
        if not self._rows:
            self._rows = [_Row() for _ in range(batch_size)]
        if len(self._rows) != batch_size:
            raise ValueError(
                f"The cache holds {len(self._rows)} rows, but the input has {batch_size}. Use "
                "cache.batch_repeat_interleave or cache.batch_select_indices to match them."
            )

    def reserve(self, entries: int) -> None:
        """Makes room for `entries` more than are held."""
        for layer in self.layers:
            layer.reserve(layer.length + entries)

    def open_room(self, entries: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every layer's `open_room`."""
        return [layer.open_room(entries) for layer in self.layers]

    @property
    def room(self) -> int:
        """Entries that can still be written to what `open_room` gave; 0 once the cache was changed otherwise."""
        return min(layer.room for layer in self.layers)

    def fill_room(self, tokens: int) -> None:
        """Counts text tokens whose keys and values were written into the room."""
        for layer in self.layers:
            layer.fill_room(tokens)
        self.advance(tokens, tokens, False, False)

    @property
    def padding(self) -> list[int]:
        """Of every row the entries left of its first that are padding."""
        return [row.padding for row in self._rows]

    def positions(self, count: int, device: torch.device) -> torch.Tensor:
        """Compact rotary positions of the next `count` tokens, `[1 or B, count]`."""
        padding = self.padding
        following = torch.arange(self.physical_length, self.physical_length + count, device=device)
        if not any(padding):
            return following[None]
        return following[None] - torch.tensor(padding, device=device)[:, None]

    def padding_mask(self, count: int, device: torch.device) -> torch.Tensor | None:
        """True for the entries and the next `count` tokens that are no padding, `[B, entries + count]`, or None."""
        padding = self.padding
        if not any(padding):
            return None
        entries = torch.arange(self.physical_length + count, device=device)
        return entries[None] >= torch.tensor(padding, device=device)[:, None]

    def advance(self, tokens: int, kept: int, visual: bool, beacons: bool) -> None:
        """Counts a pass over `tokens` tokens of which `kept` entries were appended."""
        self._logical_length += tokens
        for row in self._rows:
            if visual:
                row.visual_seen += tokens
                row.tail = 0
                row.beacons += kept if beacons else 0
                row.visual += 0 if beacons else kept
            else:
                row.tail += kept
                row.text += kept if row.visual_seen else 0
                row.leading_text += 0 if row.visual_seen else kept

    # Rollback, reuse, batches

    def mark(self) -> tuple:
        """Where the cache stands, for `rewind`."""
        return self.physical_length, self._logical_length, [replace(row) for row in self._rows]

    def rewind(self, mark: tuple) -> None:
        """Back to a `mark` after which the cache has only grown: what an interrupted call appended is forgotten."""
        length, self._logical_length, self._rows = mark
        for layer in self.layers:
            layer.crop(min(0, length - layer.length))

    def crop(self, tokens_to_remove: int) -> None:
        """
        Takes back the last `-tokens_to_remove` text tokens.

        Args:
            tokens_to_remove (`int`): negative or 0.

        Raises:
            ValueError: for a positive number, or where it would cut into a visual span, whose tokens are not there.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop({tokens_to_remove}): give the number of tokens to remove as a negative number, as in "
                f"crop(-{tokens_to_remove})."
            )
        removable = min((row.tail for row in self._rows), default=0)
        if -tokens_to_remove > removable:
            raise ValueError(
                f"crop({tokens_to_remove}) would cut into compressed memory: only the {removable} text tokens after "
                "the last visual token can be removed. Copy the cache before the tokens you want to take back."
            )
        super().crop(tokens_to_remove)
        self._logical_length += tokens_to_remove
        for row in self._rows:
            row.tail += tokens_to_remove
            if row.visual_seen:
                row.text += tokens_to_remove
            else:
                row.leading_text += tokens_to_remove

    def reset(self) -> None:
        """Empties the cache."""
        super().reset()
        self._logical_length, self._rows = 0, []

    def copy(self) -> "VideoXLCache":
        """A cache of the same content that grows on its own. Entries are shared until one of the two grows."""
        other = self.counts()
        other.layers = [layer.share() for layer in self.layers]
        return other

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Puts row `beam_idx[i]` at row `i`."""
        super().reorder_cache(beam_idx)
        self._choose_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows that `indices` (integers, or a boolean mask) names, in that order."""
        indices = torch.as_tensor(indices)
        indices = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        super().batch_select_indices(indices)
        self._choose_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row `repeats` times, copies beside each other."""
        super().batch_repeat_interleave(repeats)
        self._rows = [replace(row) for row in self._rows for _ in range(repeats)]

    def _choose_rows(self, indices: torch.Tensor) -> None:
        if any(row != self._rows[0] for row in self._rows):  # equal rows need no look at a device tensor
            self._rows = [replace(self._rows[index]) for index in indices.tolist()]
        else:
            self._rows = [replace(self._rows[0]) for _ in range(len(indices))]

    def counts(self) -> "VideoXLCache":
        """A cache that has counted what this one has, and holds no entries."""
        other = type(self)(len(self.layers))
        other._logical_length, other._rows = self._logical_length, [replace(row) for row in self._rows]
        return other

    def rows(self, indices: Sequence[int]) -> "VideoXLCache":
        """The rows `indices`, which are padded alike, without their padding, as a cache of their own."""
        other = self.copy()
        other._rows = [replace(self._rows[index], padding=0) for index in indices]
        padding = self._rows[indices[0]].padding
        chosen = slice(indices[0], indices[0] + 1) if len(indices) == 1 else list(indices)  # one row needs no copy
        for layer in other.layers:
            layer.map(lambda states: states[chosen, :, padding:])
        return other

    def assign(self, rows: Sequence["VideoXLCache"], logical_length: int) -> None:
        """
        Becomes the batch of `rows`, caches of one row each, shorter ones padded on the left.

        Args:
            logical_length (`int`): columns of `input_ids` that the batch stands for.
        """
        longest = max(cache.physical_length for cache in rows)
        for layer, *parts in zip(self.layers, *(cache.layers for cache in rows)):
            layer.reset()
            template = next((part for part in parts if part.is_initialized), None)
            if template is None:
                continue
            layer.lazy_initialization(template.keys[:1], template.values[:1])
            layer.keys = torch.cat([_pad_left(part.keys, longest, template.keys) for part in parts])
            layer.values = torch.cat([_pad_left(part.values, longest, template.values) for part in parts])
        self._rows = [replace(cache._rows[0], padding=longest - cache.physical_length) for cache in rows]
        self._logical_length = logical_length

    # In words

    def summary(self) -> dict:
        """
        What the cache holds, all rows of a batch together.

        Returns:
            `dict`: `tokens_seen` and of these `visual_tokens_seen`; `kept`, entries per layer by kind: `sink` (text
            before the first visual token), `beacons`, `visual` (kept raw under ratio 0), `text`, and `total`;
            `compression`, visual tokens seen per visual entry kept (`None` where nothing visual was seen, infinite
            where nothing of it was kept); `bytes` of all layers; and `text`, a sentence that says the same.
        """
        total = _Row(*(sum(getattr(row, field.name) for row in self._rows) for field in fields(_Row)))
        sink = sum(row.leading_text for row in self._rows if row.visual_seen)
        text = total.text + total.leading_text - sink
        kept = {"sink": sink, "beacons": total.beacons, "visual": total.visual, "text": text}
        kept["total"] = sum(kept.values())
        visual_kept = total.beacons + total.visual
        compression = None
        if total.visual_seen:
            compression = total.visual_seen / visual_kept if visual_kept else float("inf")
        held = [states for layer in self.layers if layer.is_initialized for states in (layer.keys, layer.values)]
        summary = {
            "tokens_seen": total.visual_seen + total.leading_text + total.text,
            "visual_tokens_seen": total.visual_seen,
            "kept": kept,
            "compression": compression,
            "bytes": sum(states.numel() * states.element_size() for states in held),
        }
        summary["text"] = (
            f"{summary['tokens_seen']} tokens seen, {summary['visual_tokens_seen']} of them visual; {kept['total']} "
            f"kept ({sink} sink, {total.beacons} VSTs, {total.visual} raw visual, {text} text)"
            + (f", visual tokens {compression:.1f} to 1" if compression else "")
            + f", {summary['bytes'] / 1e6:.2f} MB."
        )
        return summary


def _pad_left(states: torch.Tensor | None, length: int, like: torch.Tensor) -> torch.Tensor:
    """`states` `[1, H, n, D]` behind zeros, `[1, H, length, D]`; a row that holds nothing is all zeros."""
    states = like[:1, :, :0] if states is None else states
    padding = states.new_zeros(1, states.shape[1], length - states.shape[2], states.shape[3])
    return torch.cat((padding, states), dim=2)


__all__ = ["VideoXLCache", "VideoXLCacheLayer"]
