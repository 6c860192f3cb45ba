"""What `generate` does differently for a model whose cache is shorter than what it has seen."""

import inspect

import torch
from transformers.generation import GenerationMixin
from transformers.utils import logging

from .decoding_videoxl import StaticDecoding, obstacle
from .inputs_videoxl import NAMES, PIXEL_ARGUMENTS, token_types
from .windows_videoxl import TEXT, find_spans

logger = logging.get_logger(__name__)

VISUAL_ARGUMENTS = (
    *PIXEL_ARGUMENTS.values(),
    "image_sizes",
    "mm_token_type_ids",
    "mm_encoder_outputs",
    "compression_ratio",
)


class VideoXLGenerationMixin(GenerationMixin):
    """
    `generate` for Video-XL. Windows are planned in `forward`, so that every way of decoding takes them; here is what
    surrounds it: our cache, placeholders named once for the whole run, films compressed once for all beams.

    With `past_key_values`, `input_ids` is the whole conversation, as everywhere in transformers. Only what is new of
    it may be given instead, as long as that is no longer than what the cache has seen, or comes with the attention
    mask of the whole, 0 somewhere: otherwise nothing tells the two apart.

    Greedy decoding and sampling on a GPU go through CUDA graphs, see `StaticDecoding`: by default, and not with
    `disable_compile=True`, nor where the model has an `obstacle`. `compile_config=CompileConfig()` has each token's
    work compiled by `torch.compile` as well, on the CPU, too.
    """

    def _valid_auto_compile_criteria(self, model_kwargs, generation_config) -> bool:
        asked = generation_config.compile_config is not None
        if generation_config.disable_compile or not (asked or self.device.type == "cuda"):
            return False
        if generation_config.is_assistant:
            return False  # a draft is over before anything is won
        reason = obstacle(self) if model_kwargs.get("past_key_values") is not None else "there is no cache"
        if asked and reason is not None:
            logger.warning_once(f"compile_config is not followed: {reason}.")
        return reason is None

    def get_compiled_call(self, compile_config):
        """What `generate` calls in place of `forward` behind the first token; see `StaticDecoding`."""
        return StaticDecoding(self, compile_config)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        implementation = generation_config.cache_implementation
        if implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={implementation!r} is not supported: compressed memory lives in the model's "
                "own cache. Leave it out."
            )
        if model_kwargs.get("past_key_values") is not None:
            return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache()
        return None

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor, model_kwargs, *args, **kwargs):
        """Frames are encoded window by window, not all before the first: their features would outweigh the memory."""
        return model_kwargs

    def _get_candidate_generator(self, *args, model_kwargs, assistant_model=None, **kwargs):
        if assistant_model is not None:
            accepted = inspect.signature(assistant_model.forward).parameters
            # A text-only assistant drafts blind: what it has no argument for it does not get.
            model_kwargs = {
                name: value for name, value in model_kwargs.items() if name in accepted or name not in VISUAL_ARGUMENTS
            }
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )

    def init_continuous_batching(self, *args, **kwargs):
        raise ValueError(
            "Continuous batching keeps keys and values in pages of the input's tokens, which cannot hold compressed "
            "memory: use generate."
        )

    # Inputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Names the prompt's placeholders, and repeats rows with their images and videos."""
        embeds = model_kwargs.get("inputs_embeds")
        visuals = self._visuals_of(model_kwargs)
        types = model_kwargs.get("mm_token_type_ids")
        if types is None and embeds is None:
            # Named here once: later steps and drafts may hold the same ids as generated text.
            cache = model_kwargs.get("past_key_values")
            named = self.model.visual_types(input_ids, None, None, visuals, cache)
            types = torch.zeros(input_ids.shape, dtype=torch.long) if named is None else torch.from_numpy(named)
            seen = cache.get_seq_length() if cache is not None else 0
            if seen < types.shape[1]:  # else only what is new is given
                types[:, :seen] = TEXT  # their features were in an earlier turn
            model_kwargs["mm_token_type_ids"] = types.to(input_ids.device)
        if expand_size > 1 and visuals:
            rows = [row for row in range(len(input_ids)) for _ in range(expand_size)]
            model_kwargs |= self._visuals_for_rows(rows, model_kwargs, visuals)
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)

    def _visuals_of(self, model_kwargs: dict):
        names = (*PIXEL_ARGUMENTS.values(), "mm_encoder_outputs")
        return self.model.visual_inputs(**{name: model_kwargs.get(name) for name in names})

    def _visuals_for_rows(self, rows: list[int], model_kwargs: dict, visuals) -> dict:
        """The images and videos of the batch's `rows`, some repeated or left out, as arguments of `forward`."""
        embeds, types = model_kwargs.get("inputs_embeds"), model_kwargs.get("mm_token_type_ids")
        if types is None:
            types = self.model._types_of_embeds(embeds)
        types = token_types(None, types, tuple(types.shape), {})
        items = visuals.items(types)
        spans = [find_spans(row, items, index) for index, row in enumerate(types)]
        chosen = {kind: [span.item for row in rows for span in spans[row] if span.kind == kind] for kind in NAMES}
        arguments = {}
        for kind, name in PIXEL_ARGUMENTS.items():
            if model_kwargs.get(name) is not None:
                given = model_kwargs[name]
                given = [given] if getattr(given, "ndim", None) == 4 else given
                arguments[name] = [given[item] for item in chosen[kind]]
        encoded = model_kwargs.get("mm_encoder_outputs")
        if encoded:
            arguments["mm_encoder_outputs"] = {
                name: [getattr(encoded[name], "pooler_output", encoded[name])[item] for item in chosen[kind]]
                for kind, name in NAMES.items()
                if encoded.get(name) is not None
            }
        return arguments

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        is_first_iteration=False,
        inputs_embeds=None,
        mm_token_type_ids=None,
        **kwargs,
    ):
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        # An assistant's calls are never called first, but its first one needs the film as the model's does.
        is_first_iteration = is_first_iteration or past == 0
        if is_first_iteration and next_sequence_length is None and past:
            # Assisted decoding hands the whole conversation over, whatever the cache has seen of it.
            next_sequence_length = input_ids.shape[1] - past
        if mm_token_type_ids is not None and mm_token_type_ids.shape[1] < input_ids.shape[1]:
            missing = input_ids.shape[1] - mm_token_type_ids.shape[1]  # drafted tokens, which are text
            mm_token_type_ids = torch.nn.functional.pad(mm_token_type_ids, (0, missing))
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            is_first_iteration=is_first_iteration,
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            **kwargs,
        )

    # Prefill

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """
        One forward over what the cache has not seen.

        `prefill_chunk_size` is not followed: it would move window borders and change the answer, and windows are the
        chunks already. Rows that differ in nothing yet (beams, several samples) are prefilled as one.
        """
        cache = model_kwargs.get("past_key_values")
        repeats = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        unexpanded = cache is not None and repeats > 1 and cache.batch_size * repeats in (0, input_ids.shape[0])
        if unexpanded:
            input_ids, model_kwargs = self._unexpanded(input_ids, model_kwargs, repeats)
        embeds = model_kwargs.get("inputs_embeds") if is_first_iteration else None
        given = input_ids.shape[1] if embeds is None else embeds.shape[1]
        mask, past = model_kwargs.get("attention_mask"), cache.get_seq_length() if cache is not None else 0
        total = mask.shape[1] if mask is not None else getattr(generation_config, "_mask_length", given)
        whole = total == given and given > past  # the conversation from its start, or only what is new of it
        model_inputs = self.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=given - past if whole else given,
            is_first_iteration=is_first_iteration,
            **model_kwargs,
        )
        outputs = self(**model_inputs, return_dict=True)
        if unexpanded:
            cache.batch_repeat_interleave(repeats)
            outputs.logits = outputs.logits.repeat_interleave(repeats, dim=0)
            if outputs.hidden_states is not None:
                outputs.hidden_states = tuple(h.repeat_interleave(repeats, dim=0) for h in outputs.hidden_states)
        return outputs

    def _unexpanded(self, input_ids, model_kwargs: dict, repeats: int):
        rows = list(range(0, input_ids.shape[0], repeats))
        model_kwargs = dict(model_kwargs)
        visuals = self._visuals_of(model_kwargs)
        if visuals:
            model_kwargs |= self._visuals_for_rows(rows, model_kwargs, visuals)
        for name in ("attention_mask", "mm_token_type_ids", "inputs_embeds"):
            if model_kwargs.get(name) is not None:
                model_kwargs[name] = model_kwargs[name][::repeats]
        return input_ids[::repeats], model_kwargs
