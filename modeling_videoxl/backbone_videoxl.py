"""Video-XL without its head: from placeholders, features and a cache to hidden states."""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.utils import logging

from .cache_videoxl import VideoXLCache
from .checkpointing_videoxl import OverlappedPasses, Passes, RecomputedPasses, recomputed
from .configuration_videoxl import VideoXLConfig
from .inputs_videoxl import VisualInputs, as_items, encoder_of, new_columns, real_device, sent, token_types
from .loading_videoxl import OriginalLayoutMixin
from .outputs_videoxl import GroupOutput, gather_columns, gather_rows, wanted_columns
from .plans_videoxl import RowPlan, group_rows, longest, seeded_draws
from .prefill_videoxl import PrefillMixin
from .schedule_videoxl import Fillers, Rounds, Schedule
from .text_videoxl import VideoXLPreTrainedModel, VideoXLTextModel
from .threads_videoxl import cores_are_idle
from .vision_videoxl import FeatureStream, VideoXLProjector, patch_features, pool_patches
from .windows_videoxl import IMAGE, VIDEO, RatioSetting, Segment, find_spans, plan_row

logger = logging.get_logger(__name__)

DRAW_SEED = 42  # as the authors' generator of random ratios


class VideoXLModel(PrefillMixin, OriginalLayoutMixin, VideoXLPreTrainedModel):
    """Vision tower, projector and language model, and the passes over text and windows that make them Video-XL."""

    _keys_to_ignore_on_load_unexpected = [*OriginalLayoutMixin._keys_to_ignore_on_load_unexpected, r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: VideoXLConfig):
        super().__init__(config)
        self.vision_tower = CLIPVisionModel._from_config(config.vision_config)
        self.multi_modal_projector = VideoXLProjector(config)
        self.language_model = VideoXLTextModel._from_config(config.text_config)
        self.seed_ratios(DRAW_SEED)
        self._warned_of_loss = False
        self.checkpoint_windows = False
        self.agree_on_rounds: Callable[[Rounds], Rounds] | None = None  # see `Schedule`
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def seed_ratios(self, seed: int) -> None:
        """Starts the random draws of training ratios anew."""
        self._ratio_draws = np.random.default_rng(seed)

    def enable_window_checkpointing(self, enabled: bool = True) -> None:
        """
        Has a training step keep of each window its features and the K/V of its VSTs alone, and compute the rest of it,
        and the vision tower's chunks, again in the backward pass.
        """
        self.checkpoint_windows = enabled

    @property
    def _recomputes(self) -> bool:
        return self.checkpoint_windows and self.training and torch.is_grad_enabled()

    def passes(self, cache: VideoXLCache, windows: int = 1) -> Passes:
        """
        Passes of the language model over `cache`, computed again in the backward pass where that is wanted; of several
        `windows`, two at a time where cores are idle.
        """
        if self._recomputes:
            return RecomputedPasses(self.language_model, cache)
        plain = self.config.text_config._attn_implementation in ("eager", "sdpa")  # others compile, in one thread
        apart = windows > 1 and plain and cores_are_idle(self.first_device)
        return (OverlappedPasses if apart else Passes)(self.language_model, cache)

    def new_cache(self) -> VideoXLCache:
        """An empty cache for this model."""
        return VideoXLCache(self.config.text_config.num_hidden_layers)

    # Vision

    def _encode(self, kind: int, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames or tiles `[F, 3, H, W]` to visual tokens `[F · M, D]`; pooling comes behind the projector."""
        pixel_values = sent(pixel_values, real_device(self.vision_tower.device)).to(self.vision_tower.dtype)
        config = self.config
        features = patch_features(self.vision_tower, pixel_values, config.vision_feature_layer)  # [F, P², D_vision]
        features = self.multi_modal_projector(features)  # [F, P², D]
        video = (config.spatial_pool_stride, config.spatial_pool_mode)
        return pool_patches(features, *(video if kind == VIDEO else (2, "average"))).flatten(0, 1)

    @property
    def encoder(self) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """See `_encode`; computed again in the backward pass where that is wanted."""
        return partial(recomputed, self._encode) if self._recomputes else self._encode

    def _encode_all(self, kind: int, name: str, pixels) -> BaseModelOutputWithPooling:
        chunk = self.config.vision_chunk_size
        items = as_items(name, pixels, self.config.vision_config.image_size)
        encode, size = partial(self._encode, kind), self.config.vision_config.image_size
        encoders = [encoder_of(item, encode, real_device(self.vision_tower.device), size) for item in items]
        features = [torch.cat([encode(part) for part in item.split(chunk)]) for item, encode in zip(items, encoders)]
        return BaseModelOutputWithPooling(pooler_output=features)

    def get_video_features(self, pixel_values_videos, **kwargs) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values_videos: list of `[F, 3, H, W]`, or `[N, F, 3, H, W]`.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` lists each video's visual tokens, `[F · M, D]`.
        """
        return self._encode_all(VIDEO, "pixel_values_videos", pixel_values_videos)

    def get_image_features(self, pixel_values, **kwargs) -> BaseModelOutputWithPooling:
        """As `get_video_features`, for images of `[tiles, 3, H, W]`; tiles are always pooled 2 x 2 by average."""
        return self._encode_all(IMAGE, "pixel_values", pixel_values)

    def visual_inputs(
        self, pixel_values=None, pixel_values_videos=None, mm_encoder_outputs: dict | None = None
    ) -> VisualInputs:
        """The images and videos of one call, encoded only when a window asks for them."""
        return VisualInputs(
            pixels={IMAGE: pixel_values, VIDEO: pixel_values_videos},
            encoded=mm_encoder_outputs,
            image_size=self.config.vision_config.image_size,
            tokens_per_item={IMAGE: self.config.tokens_per_tile, VIDEO: self.config.tokens_per_frame},
            chunk_size=self.config.vision_chunk_size,
            encode=self.encoder,
            device=real_device(self.vision_tower.device),
        )

    # Plan

    @property
    def first_device(self) -> torch.device | None:
        return real_device(self.get_input_embeddings().weight.device)

    @property
    def _placeholder_ids(self) -> dict[int, int]:
        return {IMAGE: self.config.image_token_id, VIDEO: self.config.video_token_id}

    def ratio_setting(
        self, compression_ratio: int | Sequence[int] | None, draws: Callable[[int], np.random.Generator] | None = None
    ) -> RatioSetting:
        """A row's compression ratios; drawn at random by `draws`, where there are any, if the call names none."""
        text_config = self.config.text_config
        return RatioSetting(
            compression_ratio,
            self.config.default_compression_ratio,
            text_config.beacon_ratio,
            text_config.beacon_window,
            draws,
        )

    def _ratio_settings(self, compression_ratio, ratio_seeds, batch: int) -> list[RatioSetting]:
        draws = [None] * batch
        if self.training:
            draws = [lambda _: self._ratio_draws] * batch if ratio_seeds is None else seeded_draws(ratio_seeds, batch)
        return [self.ratio_setting(compression_ratio, row_draws) for row_draws in draws]

    def visual_types(self, input_ids, inputs_embeds, mm_token_type_ids, visuals, cache) -> np.ndarray | None:
        """`TEXT`, `IMAGE` or `VIDEO` of each new token, `[B, T]`; None where all are text."""
        if not visuals and cache is not None and cache.get_seq_length():
            return None  # what follows a prompt is text: a placeholder id in it was generated
        given = input_ids if inputs_embeds is None else inputs_embeds
        if inputs_embeds is not None and mm_token_type_ids is None and visuals:
            mm_token_type_ids = self._types_of_embeds(inputs_embeds)
        types = token_types(input_ids, mm_token_type_ids, tuple(given.shape[:2]), self._placeholder_ids)
        return types if visuals or types.any() else None

    def _types_of_embeds(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        types = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        for kind, token_id in self._placeholder_ids.items():
            placeholder = self.get_input_embeddings()(torch.tensor([token_id], device=inputs_embeds.device))
            types[(inputs_embeds == placeholder).all(-1)] = kind
        return types

    def _plan(self, batch: int, length: int, types, valid, visuals: VisualInputs, settings: list[RatioSetting]):
        every = np.arange(length)
        columns = [every if valid is None else every[valid[row]] for row in range(batch)]
        if types is None:
            spans = [[] for _ in range(batch)]
        else:
            row_types = [types[row][columns[row]] for row in range(batch)]
            items = visuals.items(row_types)
            spans = [find_spans(row_types[row], items, row) for row in range(batch)]
        plans, lost = [], 0
        for row in range(batch):
            # A list of ratios is for the rows that have windows; where none has any, its length is wrong.
            listed = settings[row] if spans[row] or not any(spans) else self.ratio_setting(None)
            segments, row_lost = plan_row(
                len(columns[row]),
                spans[row],
                listed,
                self.config.text_config.beacon_window,
                self.config.summarize_remainder,
            )
            plans.append(RowPlan(columns[row], spans[row], segments))
            lost += row_lost
        self._warn_of_loss(lost, sum(span.length for row in spans for span in row))
        return plans

    def _warn_of_loss(self, lost: int, total: int) -> None:
        if lost and not self._warned_of_loss:
            self._warned_of_loss = True
            logger.warning(
                f"{lost} of {total} visual tokens are summed up by no VST, because the compression ratio does not "
                "divide their number: they leave no trace in memory, as in the authors' model. Use a ratio that "
                "divides, or config.summarize_remainder=True. (Said once.)"
            )

    # Passes

    def _run(self, rows, plans: list[RowPlan], cache, embed, visuals, wanted, schedule, **kwargs) -> GroupOutput:
        """
        Runs rows of equal passes, but for the end of the last text, over `cache`, which holds just these rows.

        Args:
            embed: `(rows, columns)` to text embeddings `[b, n, D]`.
            wanted: columns whose output is asked for, `[B, T]`.
            schedule: of all processes, or None where each runs on its own.
        """
        plan = longest(plans, rows)
        if not torch.is_grad_enabled():
            cache.reserve(sum(segment.kept for segment in plan.segments))
        windows = sum(segment.visual for segment in plan.segments)
        with closing(self.passes(cache, windows)) as passes:
            output = self._run_passes(passes, rows, plans, cache, embed, visuals, wanted, schedule, **kwargs)
            passes.flush()
        return output

    def _run_passes(self, passes: Passes, rows, plans, cache, embed, visuals, wanted, schedule, **kwargs):
        plan = longest(plans, rows)
        output = GroupOutput(rows)
        streams: list[list[FeatureStream]] = []
        for segment in plan.segments:
            if segment.visual and any(span.start == segment.start for span in plan.spans):
                streams.append([visuals.stream(*self._item(plans[row], len(streams))) for row in rows])
            columns = plan.columns[segment.start : segment.stop]
            asked = wanted[np.ix_(rows, columns)].any(axis=0)
            if segment.visual and not segment.kept and not asked.any():
                cache.advance(segment.length, 0, True, True)  # nothing of such a window is ever used
                continue
            if schedule is not None:
                self._keep_step(schedule, segment, rows, plans, visuals)
            if segment.visual:
                features = [stream.take_all(segment.length) for stream in streams[-1]]
                embeds = sent(torch.stack(features), self.first_device).to(self.language_model.dtype)  # [b, m, D]
            else:
                embeds = embed(rows, columns)
            needed = bool(asked.any())
            hidden, states = passes.run(embeds, segment, hidden_needed=needed or schedule is not None, **kwargs)
            if schedule is not None:
                schedule.fillers.tie(hidden)
            if needed:
                output.add(columns, asked, hidden, states)
        return output

    def _schedule(self, groups: list[list[int]], plans: list[RowPlan], visuals: VisualInputs, wanted) -> Schedule:
        """The schedule of this call and of those that the other processes make at the same time."""
        rounds: Rounds = []
        for rows in groups:
            plan = longest(plans, rows)
            for segment in plan.segments:
                if not segment.visual or not rounds:
                    rounds.append([])
                asked = wanted[np.ix_(rows, plan.columns[segment.start : segment.stop])].any()
                if segment.visual and (segment.kept or asked):
                    rounds[-1].append(self._chunks(segment, rows, plans, visuals))
        return Schedule(self.agree_on_rounds(rounds), Fillers(self))

    def _keep_step(self, schedule: Schedule, segment: Segment, rows, plans, visuals) -> None:
        if segment.visual:
            schedule.window(self._chunks(segment, rows, plans, visuals))
        else:
            schedule.text()

    @staticmethod
    def _chunks(segment: Segment, rows: list[int], plans: list[RowPlan], visuals: VisualInputs) -> int:
        """Chunks of the vision tower that are encoded for a window of these rows."""
        spans = [next(span for span in plans[row].spans if segment.stop <= span.stop) for row in rows]
        return sum(
            visuals.chunks(span.kind, span.item, segment.start - span.start, segment.stop - span.start)
            for span in spans
        )

    @staticmethod
    def _item(plan: RowPlan, index: int) -> tuple[int, int]:
        return plan.spans[index].kind, plan.spans[index].item

    def _embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None):
        def embed(rows: list[int], columns: np.ndarray) -> torch.Tensor:
            source = input_ids if inputs_embeds is None else inputs_embeds
            contiguous = len(columns) == columns[-1] - columns[0] + 1
            chosen = slice(int(columns[0]), int(columns[-1]) + 1) if contiguous else columns.tolist()
            part = source[:, chosen] if len(rows) == source.shape[0] else source[rows][:, chosen]
            return self.get_input_embeddings()(part) if inputs_embeds is None else part

        return embed

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: VideoXLCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: list[torch.Tensor] | torch.Tensor | None = None,
        pixel_values_videos: list[torch.Tensor] | torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
        compression_ratio: int | Sequence[int] | None = None,
        ratio_seeds: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast | tuple:
        """
        Args:
            input_ids (`[B, T]`): the new tokens, one placeholder per visual token; VSTs are never among them.
            attention_mask (`[B, >= T]`): 0 for padding, on any side.
            past_key_values: what earlier calls left; extended in place.
            inputs_embeds (`[B, T, D]`): in place of `input_ids`; placeholders are recognised by their embedding.
            pixel_values: a list of `[tiles, 3, H, W]`, one per image of the new tokens, rows in order.
            pixel_values_videos: a list of `[F, 3, H, W]`, one per video of the new tokens; or `[N, F, 3, H, W]`. In
                place of a tensor also what `VideoXLVideoProcessor.stream_video` gives: read as the windows need it.
            image_sizes (`[N, 2]`): the images' heights and widths; not needed.
            mm_token_type_ids (`[B, T]`): 0 text, 1 image, 2 video; without it placeholder ids decide.
            mm_encoder_outputs: features in place of pixels, `{"image": …, "video": …}`, each with a `pooler_output`
                that lists `[tokens, D]`.
            compression_ratio: visual tokens per VST: an int, a list with one per window over all spans of a row, 0 for
                no compression, or None: drawn at random per window in training, else the configuration's default.
            ratio_seeds (`[B]`): in training, integers >= 0 of which alone each row draws its ratio for each window;
                rows of equal seeds and spans run together. Without them the model's own generator draws, see
                `seed_ratios`.
            use_cache: return the cache; by default outside training only.
            logits_to_keep: which positions' output is returned: 0 for all, n for the last n columns, a tensor of
                columns, or a boolean `[B, T]`, for which the rows come packed, `[1, n, D]`.

        Returns:
            `BaseModelOutputWithPast`: `last_hidden_state` `[B, kept columns, D]`, zeros at padding.

        Raises:
            ValueError: where placeholders and features do not match, with both counts; for a list of ratios of the
                wrong length, with both lengths; for anything else that does not fit, by its name.
        """
        source = self._checked_source(input_ids, inputs_embeds, kwargs)
        batch, length = source.shape[:2]
        use_cache = not self.training if use_cache is None else use_cache
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        cache = self.new_cache() if past_key_values is None else self._checked_cache(past_key_values)
        visuals = self.visual_inputs(pixel_values, pixel_values_videos, mm_encoder_outputs)
        types = self.visual_types(input_ids, inputs_embeds, mm_token_type_ids, visuals, cache)
        settings = self._ratio_settings(compression_ratio, ratio_seeds, batch)
        if types is None and cache.get_seq_length():
            settings = [self.ratio_setting(None)] * batch  # a list speaks of windows, of which a later step has none
        plans = self._plan(batch, length, types, new_columns(attention_mask, length), visuals, settings)
        columns = wanted_columns(logits_to_keep, batch, length)
        packed = getattr(logits_to_keep, "dtype", None) == torch.bool
        fresh = past_key_values is None and not use_cache
        groups = group_rows(plans, length, pad_tails=fresh and packed and not output_hidden_states)
        wanted = np.ones_like(columns) if output_hidden_states else columns
        schedule = None if self.agree_on_rounds is None else self._schedule(groups, plans, visuals, wanted)
        outputs = self._run_rows(
            groups,
            plans,
            cache,
            length,
            use_cache,
            embed=self._embed(input_ids, inputs_embeds),
            visuals=visuals,
            wanted=wanted,
            schedule=schedule,
            output_hidden_states=bool(output_hidden_states),
            **kwargs,
        )
        empty = torch.empty(0, self.config.text_config.hidden_size, dtype=self.dtype)
        hidden_states = None
        if output_hidden_states:
            layers = range(self.config.text_config.num_hidden_layers + 1)
            every = np.ones(length, bool)
            hidden_states = tuple(gather_columns(outputs, batch, every, empty, layer) for layer in layers)
        last = gather_rows(outputs, logits_to_keep) if packed else gather_columns(outputs, batch, columns[0], empty)
        if schedule is not None:
            schedule.finish()
            last = sum((zero.to(last.device) for zero in schedule.fillers.zeros), start=last)
        output = BaseModelOutputWithPast(
            last_hidden_state=last,
            past_key_values=cache if use_cache else None,
            hidden_states=hidden_states,
        )
        return output.to_tuple() if return_dict is False or self.config.return_dict is False else output

    @staticmethod
    def _checked_source(input_ids, inputs_embeds, kwargs: dict) -> torch.Tensor:
        """Ids or embeddings, whichever is given; takes out of `kwargs` what may not go on to attention."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds, one of the two.")
        kwargs.pop("position_ids", None)  # positions are the cache's: compact, not those of the input
        if kwargs.pop("output_attentions", False):
            raise ValueError(
                "output_attentions is not supported: windows attend to different memories, so that there is no one "
                "matrix over the input. Use output_hidden_states, or register hooks on the attention modules."
            )
        source = input_ids if inputs_embeds is None else inputs_embeds
        if not source.shape[1]:
            raise ValueError("The input has no new token: pass at least one that the cache has not seen.")
        return source

    @staticmethod
    def _checked_cache(cache) -> VideoXLCache:
        if not hasattr(cache, "padding_mask"):  # by what it can do: remote code may hold a second copy of the class
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, which cannot hold compressed memory: use "
                "model.new_cache(), or leave it out."
            )
        return cache

    def _run_rows(self, groups: list[list[int]], plans: list[RowPlan], cache, length: int, use_cache: bool, **run):
        """All rows, group by group. An error leaves the cache as it was."""
        mark = cache.mark()
        try:
            cache.start(len(plans))
            if len(groups) == 1 and all(len(plan.columns) == length for plan in plans):
                return [self._run(groups[0], plans, cache, **run)]
            parts = [cache.rows(rows) for rows in groups]
            outputs = [self._run(rows, plans, part, **run) for rows, part in zip(groups, parts)]
            if use_cache:
                cache.assign(parts, cache.get_seq_length() + length)
            return outputs
        except BaseException:
            cache.rewind(mark)
            raise
        finally:
            run["visuals"].close()


__all__ = ["VideoXLModel"]
