"""Films spelled in words: where the small model's language model and VSTs learn what questions are about.

In the place of a frame's visual tokens stand the embeddings of the words for what it shows. To find, compress, count
and compare is learned from them alone, for a tenth of the price, before there is a vision tower; then the projector
learns to send the same for pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.vision_videoxl import patch_features, pool_patches
from videoxl.processing.processing_videoxl import VideoXLProcessor
from videoxl.synthetic.needles import COLOURS

from .collator import VideoXLCollator
from .encoding import NOTHING, PIXELS
from .parts import train_only
from .tiny_data import PLAIN, SIGNS, UNKNOWN, sign_words
from .tiny_pairs import UnshownPairs, loss_without
from .trainer import VideoXLTrainer

NO_WORD = -1


def word_ids(tokenizer: PreTrainedTokenizerBase, frames: Sequence[str]) -> torch.Tensor:
    """Ids of each frame's words, int64 [F, most words], `NO_WORD` behind the shorter ones'."""
    rows = [tokenizer.encode(frame, add_special_tokens=False) for frame in frames]
    most = max(map(len, rows))
    return torch.tensor([row + [NO_WORD] * (most - len(row)) for row in rows])


def bags(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Sums of the words' embeddings: int64 [F, W] and [vocabulary, D] to [F, D]."""
    given = (ids != NO_WORD).to(table.dtype)
    return (table[ids.clamp(min=0)] * given[..., None]).sum(1)


class FrameSpeller(nn.Module):
    """
    A model that learns to send for a frame, as each of its visual tokens, what the frame's words would send.

    Args:
        model: whose embeddings were learned from films spelled in words.
        tokenizer: of the model.
        parts: that learn, of `projector` and `vision_tower`: see [`train_only`].
    """

    def __init__(self, model: VideoXLForCausalLM, tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]):
        super().__init__()
        train_only(model, parts)
        self.config = model.config
        self.vision_tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        table = model.get_input_embeddings().weight.detach()
        signs = [*(sign_words(kind, value) for kind, value in SIGNS), PLAIN]
        colours = [f" {colour}" for colour in COLOURS]
        for name, words in (("signs", signs), ("colours", colours)):
            sums = bags(word_ids(tokenizer, words), table)  # [words, D]
            self.register_buffer(name, sums, persistent=False)
            span = torch.linalg.qr(sums.T)[0]  # [D, words], orthonormal
            self.register_buffer(f"{name}_span", span, persistent=False)
        self.colours = nn.functional.pad(self.colours, (0, 0, 0, 1))  # [colours + 1, D]: of no colour nothing

    def forward(self, pixel_values: torch.Tensor, sign: torch.Tensor, colour: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        The loss is the share of the words' variance that the visual tokens miss; what is unknown is not missed.

        Args:
            pixel_values: [B, 3, S, S].
            sign, colour: [B], `UNKNOWN` where no word tells it.

        Returns:
            `loss`, and the visual tokens as `sent`, [B, M, D].
        """
        seen = patch_features(self.vision_tower, pixel_values, self.config.vision_feature_layer)
        sent = self.projector(seen)  # [B, P², D]
        sent = pool_patches(sent, self.config.spatial_pool_stride, self.config.spatial_pool_mode)  # [B, M, D]
        known = self._of(self.signs, sign) + self._of(self.colours, colour)  # [B, D]
        missed = (sent - known[:, None]).float()  # [B, M, D]
        for truth, span in ((sign, self.signs_span), (colour, self.colours_span)):
            unknown = (truth == UNKNOWN).to(missed.dtype)[:, None, None]
            missed = missed - unknown * (missed @ span @ span.T)
        return {"loss": missed.pow(2).mean() / self.signs.var(), "sent": sent}

    @staticmethod
    def _of(words: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return words[truth.clamp(min=0)] * (truth != UNKNOWN)[:, None]


class SpelledCollator(VideoXLCollator):
    """
    As its parent, for rows with `spelled`, a text for each frame.

    The batch has `films`, see `code`, and `unshown`, int64 [B, T]: of each label what [`UnshownPairs`] leaves out.
    """

    def __init__(self, processor: VideoXLProcessor, **kwargs: Any):
        super().__init__(processor, **kwargs)
        self.pairs = UnshownPairs(processor.tokenizer)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the parent."""
        size = self.processor.video_processor.crop_size["height"]
        empty = torch.zeros(1, 1, 1, 1)  # takes no room, and tells how many frames want placeholders
        shown = [{**row, PIXELS: empty.expand(len(row["spelled"]), 3, size, size)} for row in rows]
        batch = super().__call__(shown)
        batch.pop(PIXELS)
        unshown = torch.tensor([self.pairs.rows(row) for row in batch["labels"].tolist()])  # [B, T]
        return {**batch, "unshown": unshown, "films": [self.code(row) for row in rows]}

    def code(self, row: Mapping[str, Any]) -> torch.Tensor:
        """The film as its trainer wants it: the ids of every frame's words, int64 [F, W]."""
        return word_ids(self.processor.tokenizer, row["spelled"])


class SpelledTrainer(VideoXLTrainer):
    """
    Puts the words' embeddings, as they are in that step, in the place of the visual tokens; pairs that are never shown
    take no part in the loss.
    """

    collator_class = SpelledCollator

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_collator = self.collator_class(kwargs["processing_class"], max_frames=kwargs["args"].max_frames)
        self.compute_loss_func = self._loss

    def visual_tokens(self, model: VideoXLForCausalLM, film: torch.Tensor) -> torch.Tensor:
        """What stands for a film as the collator coded it, [F · M, D]."""
        sums = bags(film, model.get_input_embeddings().weight)  # [F, D]
        return sums.repeat_interleave(model.config.tokens_per_frame, 0)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """See the parent."""
        inputs = dict(inputs)
        whole = self.accelerator.unwrap_model(model)
        films = [self.visual_tokens(whole, film) for film in inputs.pop("films")]
        unshown = inputs.pop("unshown")
        inputs["mm_encoder_outputs"] = {"video": films}
        if model.training:
            labelled = torch.stack([inputs["labels"], unshown])[:, :, 1:]  # [2, B, T - 1]
            inputs["logits_to_keep"] = nn.functional.pad(labelled[0] != NOTHING, (0, 1))  # [B, T]
            inputs["labels"] = labelled
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _loss(self, outputs, labelled: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        labels, unshown = labelled
        asked = labels != NOTHING
        left_out = self.data_collator.pairs.left_out.to(labels.device)[unshown[asked]]  # [labelled, vocabulary]
        return loss_without(left_out, outputs.logits[0], labels[asked]) / num_items_in_batch
