"""Video-XL with its language-model head: logits, loss and generation."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from .backbone_videoxl import VideoXLModel
from .cache_videoxl import VideoXLCache
from .configuration_videoxl import VideoXLConfig
from .generation_videoxl import VideoXLGenerationMixin
from .loading_videoxl import OriginalLayoutMixin
from .text_videoxl import VideoXLPreTrainedModel


class VideoXLForCausalLM(OriginalLayoutMixin, VideoXLGenerationMixin, VideoXLPreTrainedModel):
    """Video-XL with its language-model head: logits, loss, `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: VideoXLConfig):
        super().__init__(config)
        self.model = VideoXLModel(config)
        self.vocab_size = config.text_config.vocab_size
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def new_cache(self) -> VideoXLCache:
        """An empty cache for this model."""
        return self.model.new_cache()

    def seed_ratios(self, seed: int) -> None:
        """Starts the random draws of training ratios anew."""
        self.model.seed_ratios(seed)

    def enable_window_checkpointing(self, enabled: bool = True) -> None:
        """See `VideoXLModel.enable_window_checkpointing`."""
        self.model.enable_window_checkpointing(enabled)

    def get_video_features(self, pixel_values_videos, **kwargs) -> BaseModelOutputWithPooling:
        """See `VideoXLModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    def get_image_features(self, pixel_values, **kwargs) -> BaseModelOutputWithPooling:
        """See `VideoXLModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def prefill_video(
        self,
        prefix_ids: torch.LongTensor,
        chunks: Iterable[torch.Tensor],
        compression_ratio: int | Sequence[int] | None = None,
        on_window: Callable[[VideoXLCache], None] | None = None,
    ) -> VideoXLCache:
        """See `VideoXLModel.prefill_video`."""
        return self.model.prefill_video(prefix_ids, chunks, compression_ratio, on_window)

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
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """
        Arguments beyond `VideoXLModel.forward`'s:

        Args:
            labels (`[B, T]`): the tokens to predict, -100 where there is nothing to learn; shifted here, once over the
                whole sequence, so that the last visual token predicts the first labelled text token.
            num_items_in_batch: divides the summed loss in place of the number of labelled tokens, for gradient
                accumulation.

        Returns:
            `CausalLMOutputWithPast`: `logits` `[B, kept columns, vocabulary]`. In training with labels they are
            None: only the rows that predict a label meet the head, for 18,000 visual rows of 152,000 logits would
            be 5 GB that nobody reads. `logits_to_keep=T` asks for all of them all the same.
        """
        learning = labels is not None and self.training and isinstance(logits_to_keep, int) and logits_to_keep == 0
        targets = None
        if labels is not None:
            targets = self._targets(labels, attention_mask)
            if not learning and not (isinstance(logits_to_keep, int) and logits_to_keep in (0, labels.shape[1])):
                raise ValueError("labels need the logits of the whole sequence: leave logits_to_keep at 0.")
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_sizes=image_sizes,
            mm_token_type_ids=mm_token_type_ids,
            mm_encoder_outputs=mm_encoder_outputs,
            compression_ratio=compression_ratio,
            use_cache=use_cache,
            logits_to_keep=self._learning_rows(targets, attention_mask) if learning else logits_to_keep,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(output.last_hidden_state)
        loss = None
        if labels is not None:
            chosen = targets != -100  # [B, T]
            predicted = logits[0] if learning else logits[chosen.to(logits.device)]  # [labelled, vocabulary]
            loss = self._loss(predicted, targets[chosen], num_items_in_batch)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=None if learning else logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )
        return output.to_tuple() if return_dict is False or self.config.return_dict is False else output

    @staticmethod
    def _targets(labels: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """What each position is to predict, `[B, T]`, -100 for nothing; padding predicts nothing."""
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        if attention_mask is not None:
            targets = targets.masked_fill(attention_mask[:, -labels.shape[1] :].to(labels.device) == 0, -100)
        return targets

    @staticmethod
    def _learning_rows(targets: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        rows = targets != -100  # [B, T]
        if rows.any():
            return rows
        # Nothing is labelled: some output is needed all the same, for a loss of zero that backward can go through.
        return torch.ones_like(rows) if attention_mask is None else attention_mask[:, -rows.shape[1] :] != 0

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        if not targets.numel():
            return logits.sum() * 0.0  # nothing to learn is no loss, not a division by zero
        return self.loss_function(
            logits=logits,
            labels=None,
            shift_labels=targets,
            vocab_size=self.config.text_config.vocab_size,
            num_items_in_batch=num_items_in_batch,
        )


__all__ = ["VideoXLForCausalLM"]
