"""Passes of the language model over a cache: one by one, two at a time, or computed again in the backward pass."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .cache_videoxl import VideoXLCache
from .threads_videoxl import LayerThread
from .windows_videoxl import Segment


def recomputed(function: Callable, *args):
    """`function(*args)`, of which only what goes in and what comes out is held until the backward pass."""
    return checkpoint(function, *args, use_reentrant=False)


class Passes:
    """Passes of a language model over a cache."""

    def __init__(self, language_model: nn.Module, cache: VideoXLCache):
        self._language_model, self._cache = language_model, cache

    def run(self, embeds: torch.Tensor, segment: Segment, **kwargs):
        """See `VideoXLTextModel.forward`."""
        return self._language_model(embeds, segment, self._cache, **kwargs)

    def flush(self) -> None:
        """Brings the cache up to date; to be called behind the last pass."""

    def close(self) -> None:
        """Ends what is still under way, also where a pass failed."""


class OverlappedPasses(Passes):
    """The same, two windows at a time: see [`LayerThread`]."""

    def __init__(self, language_model: nn.Module, cache: VideoXLCache):
        super().__init__(language_model, cache)
        self._thread = cache.under_way = LayerThread()

    def run(self, embeds: torch.Tensor, segment: Segment, hidden_needed: bool = True, **kwargs):
        if not hidden_needed and segment.visual:
            return super().run(embeds, segment, hidden_needed=False, later=self._thread, **kwargs)
        self.flush()
        return super().run(embeds, segment, hidden_needed=hidden_needed, **kwargs)

    def flush(self) -> None:
        self._thread.wait()

    def close(self) -> None:
        self._thread.close()
        self._cache.under_way = None


class RecomputedPasses(Passes):
    """
    The same, of which only embeddings and what is kept are held until the backward pass.

    Attention wants them joined. Joined once per pass outside, every window would leave the whole memory up to it
    behind, bytes that grow with the square of the windows; so they are held in pieces, and joined inside what is
    computed again.
    """

    def __init__(self, language_model: nn.Module, cache: VideoXLCache):
        super().__init__(language_model, cache)
        self._pieces = [[(layer.keys, layer.values)] if layer.length else [] for layer in cache.layers]
        self._held = [len(pieces) for pieces in self._pieces]

    def run(self, embeds: torch.Tensor, segment: Segment, **kwargs):
        language_model, counts = self._language_model, self._cache.counts()  # not self, which is to be forgotten
        past = [list(pieces) for pieces in self._pieces]  # as it is now: later windows are no past of this one

        def run_pass(embeds: torch.Tensor):
            cache = counts.counts()
            for layer, pieces in zip(cache.layers, past):
                if pieces:
                    layer.update(*_join(pieces))
            before = cache.physical_length
            hidden, states = language_model(embeds, segment, cache, **kwargs)
            # Copies: a view would hold the window that it is part of.
            kept = [[held[:, :, before:].clone() for held in (layer.keys, layer.values)] for layer in cache.layers]
            return hidden, states, kept

        hidden, states, kept = recomputed(run_pass, embeds)
        if segment.kept:
            for pieces, new in zip(self._pieces, kept):
                pieces.append(tuple(new))
        self._cache.advance(segment.length, segment.kept, segment.visual, segment.ratio > 0)
        return hidden, states

    def flush(self) -> None:
        for layer, pieces, held in zip(self._cache.layers, self._pieces, self._held):
            if pieces[held:]:
                layer.update(*_join(pieces[held:]))


def _join(pieces: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(states, dim=2) for states in zip(*pieces)]
