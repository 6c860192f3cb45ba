"""transformers' Trainer, with rows of annotations, drawn ratios and a curriculum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer

from videoxl.processing.processing_videoxl import VideoXLProcessor

from .arguments import VideoXLTrainingArguments
from .callbacks import CurriculumSteps, RunLog
from .collator import VideoXLCollator
from .curriculum import Curriculum
from .distributed import equalize_passes, must_keep_step
from .encoding import NOTHING
from .sampling import Lessons, TicketSampler


class VideoXLTrainer(Trainer):
    """
    Trains on rows of annotations. The order of rows, their ratios and lengths follow from seed, epoch and step alone,
    so that a resumed run does what an uninterrupted one does, on any number of processes.

    Args:
        model: to be trained, as it is: see [`train_only`] and [`with_adapters`].
        args: of the run.
        train_dataset, eval_dataset: map datasets of rows, see [`read_annotations`].
        processing_class: the model's processor; saved with every checkpoint.
        kwargs: of transformers' `Trainer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: VideoXLTrainingArguments,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: VideoXLProcessor | None = None,
        **kwargs: Any,
    ):
        collator = VideoXLCollator(
            processing_class,
            fps=args.frames_per_second,
            max_frames=args.max_frames,
            seed=args.seed,
            label_turn_marks=args.label_turn_marks,
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=None if train_dataset is None else Lessons(train_dataset),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if must_keep_step(self.accelerator):
            equalize_passes(self.model)
        self.curriculum = Curriculum(args.curriculum)
        self.tickets: TicketSampler | None = None
        self._text_config = self.accelerator.unwrap_model(model).config.text_config
        self._all_ratios = list(self._text_config.beacon_ratio)
        self.add_callback(CurriculumSteps(self))
        self.add_callback(RunLog())

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> TicketSampler:
        args = self.args
        lessons = self.train_dataset if train_dataset is None else train_dataset
        update = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        order, seed = args.train_sampling_strategy, args.seed if args.data_seed is None else args.data_seed
        self.tickets = TicketSampler(lessons.rows, order, self._train_batch_size, update, seed, self.curriculum)
        return self.tickets

    def use_ratios(self, ratios: Sequence[int] | None) -> None:
        """Draw the ratios of training among these, or among all that the model came with."""
        self._text_config.beacon_ratio = self._all_ratios if ratios is None else list(ratios)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As everywhere; the curriculum's choice of ratios is not part of the model."""
        chosen = self._text_config.beacon_ratio
        self.use_ratios(None)
        super().save_model(*args, **kwargs)
        self.use_ratios(chosen)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """In evaluation, too, only the rows that predict a label meet the head: all logits of a film fill a GPU."""
        if model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NOTHING)  # [B, T]
        asked = targets != NOTHING
        outputs = model(**inputs, logits_to_keep=asked)
        logits = outputs.logits[0].float()  # [labelled, vocabulary]
        loss = torch.nn.functional.cross_entropy(logits, targets[asked].to(logits.device))
        return (loss, outputs) if return_outputs else loss
