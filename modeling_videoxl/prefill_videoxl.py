"""A video of which nobody knows yet how long it is, compressed while it comes."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from .cache_videoxl import VideoXLCache
from .checkpointing_videoxl import Passes
from .inputs_videoxl import as_items, encoder_of, is_streamed, real_device
from .threads_videoxl import VisionThread, cores_are_idle
from .vision_videoxl import FeatureStream
from .windows_videoxl import VIDEO, Segment, Span, SpanPlanner, plan_row


class PrefillMixin:
    """`prefill_video` of the model without its head."""

    @torch.no_grad()
    def prefill_video(
        self,
        prefix_ids: torch.LongTensor,
        chunks: Iterable[torch.Tensor],
        compression_ratio: int | Sequence[int] | None = None,
        on_window: Callable[[VideoXLCache], None] | None = None,
    ) -> VideoXLCache:
        """
        Compresses a video that comes in pieces, of a length that need not be known, into a cache.

        The cache is the one that the whole prompt would leave: `generate` goes on from it with the whole ids (prefix,
        one placeholder per visual token seen, question) or with the question's ids alone, if they are fewer.

        Args:
            prefix_ids (`[1, P]` or `[P]`): the text before the video.
            chunks: frames in order, each `[f, 3, H, W]` of any f, as the processor makes them; or what its
                `stream_video` gives, which is read while the model works. A generator is closed in any case.
            compression_ratio: as in `forward`; a list must have one ratio per window that comes.
            on_window: called after every window, to watch the cache grow.

        Returns:
            `VideoXLCache`: `get_seq_length()` is P and the visual tokens seen.

        Raises:
            ValueError: if there is no frame, or the list of ratios has another length than there are windows.
        """
        prefix_ids = prefix_ids.reshape(1, -1).to(self.first_device)
        cache = self.new_cache()
        cache.start(1)
        source = chunks.split(self.config.vision_chunk_size) if is_streamed(chunks) else chunks
        closing = contextlib.closing(source) if hasattr(source, "close") else contextlib.nullcontext()
        apart = not self._is_live(chunks) and cores_are_idle(real_device(self.vision_tower.device))
        with closing, VisionThread() if apart else contextlib.nullcontext() as thread:
            kept = self._entries_to_come(chunks, compression_ratio)
            stream = FeatureStream(self._pieces(source), self._piece_encoder(chunks), thread)
            if prefix_ids.shape[1]:  # frames are read meanwhile
                embeds = self.get_input_embeddings()(prefix_ids)
                self.language_model(embeds, Segment(0, prefix_ids.shape[1]), cache, hidden_needed=False)
            cache.reserve(kept)
            with contextlib.closing(self.passes(cache, windows=2 if apart else 1)) as passes:
                self._prefill_windows(stream, passes, cache, compression_ratio, on_window or (lambda _: None))
                passes.flush()
        return cache

    def _pieces(self, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        frames = (as_items("chunks", [chunk], self.config.vision_config.image_size)[0] for chunk in chunks)
        return itertools.chain.from_iterable(chunk.split(self.config.vision_chunk_size) for chunk in frames)

    def _piece_encoder(self, chunks: Iterable[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        device, size = real_device(self.vision_tower.device), self.config.vision_config.image_size
        return encoder_of(chunks, lambda piece: self._encode(VIDEO, piece), device, size)

    @staticmethod
    def _is_live(chunks: Iterable[torch.Tensor]) -> bool:
        """Whether more may come as it happens: a frame that came is compressed before the next is waited for."""
        metadata = getattr(chunks, "metadata", None)
        return not is_streamed(chunks) or (metadata is not None and metadata.frames_indices is None)

    def _entries_to_come(self, chunks: Iterable[torch.Tensor], compression_ratio) -> int:
        """
        What a streamed video will leave, where it says how many frames it plans to give; else 0: the cache grows.
        Without room for all of it, old and new entries would lie beside each other whenever it grows.
        """
        setting, window = self.ratio_setting(compression_ratio), self.config.text_config.beacon_window
        planned = getattr(getattr(chunks, "metadata", None), "frames_indices", None)
        tokens = len(planned or ()) * self.config.tokens_per_frame
        if isinstance(compression_ratio, list | tuple) and len(compression_ratio) != -(-tokens // window):
            return 0  # an error, but only once all frames came: some may be damaged
        span = Span(VIDEO, 0, tokens, 0)
        segments, _ = plan_row(tokens, [span], setting, window, self.config.summarize_remainder)
        return sum(segment.kept for segment in segments)

    def _prefill_windows(
        self, stream: FeatureStream, passes: Passes, cache: VideoXLCache, compression_ratio, on_window
    ) -> None:
        setting, window = self.ratio_setting(compression_ratio), self.config.text_config.beacon_window
        planner, lengths, last = SpanPlanner(self.config.summarize_remainder), [], False
        while not last:
            features = stream.take(window)
            if features is None:
                raise ValueError("chunks held no frame: give at least one chunk of [f, 3, H, W].")
            last = stream.exhausted()
            lengths.append(features.shape[0])
            segment = planner.window(0, lengths[-1], setting.of_window(len(lengths) - 1, lengths), last)
            if segment.kept:
                embeds = features[None].to(self.first_device, self.language_model.dtype)
                passes.run(embeds, segment, hidden_needed=False)
            else:
                cache.advance(segment.length, 0, True, True)
            on_window(cache)
        setting.for_windows(lengths)  # a list that is too long is an error, too
        self._warn_of_loss(planner.lost, sum(lengths))
