"""Rows of annotations to a batch of the model."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from videoxl.processing.processing_videoxl import VideoXLProcessor, pad_rows

from .encoding import (
    NOTHING,
    PIXELS,
    Labeller,
    check_conversations,
    check_media,
    encode_row,
    media_items,
    row_name,
)


class VideoXLCollator:
    """
    Reads what the rows show, encodes what they say, and pads them on the right, as the model runs rows together.

    Args:
        processor: of the model.
        fps: frames per second of videos: every `round(rate / fps)`-th frame is taken.
        max_frames: cap of a video's frames; over it `np.linspace` picks this many.
        seed: of the training run; with a row's epoch and `ratio_key` it makes the row's ratio seed.
        label_turn_marks: see [`Labeller`].
    """

    def __init__(
        self,
        processor: VideoXLProcessor,
        fps: float = 1.0,
        max_frames: int = 128,
        seed: int = 0,
        label_turn_marks: bool = False,
    ):
        self.processor, self.fps, self.max_frames, self.seed = processor, fps, max_frames, seed
        self.labeller = Labeller(processor, label_turn_marks)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            rows: of the annotation format; `epoch` (0) and `max_frames` come from [`Lessons`].

        Returns:
            `input_ids`, `attention_mask` and `labels` int64 [B, T]; `ratio_seeds` int64 [B]; `pixel_values_videos`, a
            list of float32 [F, 3, H, W], and `pixel_values`, a list of float32 [tiles, 3, H, W], where there are any.

        Raises:
            ValueError: naming the row that cannot be used.
        """
        ids, visuals = [], {}
        for row in rows:
            row_ids, row_visuals = self.encode(row)
            ids.append(row_ids)
            for name, items in row_visuals.items():
                visuals.setdefault(name, []).extend(items)
        batch = {name: torch.tensor(value) for name, value in self._padded(ids).items()}
        labels = [self.labeller.labels(row) for row in ids]
        length = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([row + [NOTHING] * (length - len(row)) for row in labels])
        batch["ratio_seeds"] = torch.tensor([self.ratio_seed(row) for row in rows])
        return {**batch, **visuals}

    def encode(self, row: Mapping[str, Any]) -> tuple[list[int], dict[str, list[torch.Tensor]]]:
        """One row's ids, one placeholder per visual token, and its pixel values by name."""
        check_conversations(row)
        check_media(row)
        try:
            ids = encode_row(self.processor, row)
            visuals = self._visuals(row, ids)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{row_name(row)}: {error}") from error
        return self.processor.expand([ids], visuals)[0], visuals

    def ratio_seed(self, row: Mapping[str, Any]) -> int:
        """A function of training seed, epoch and the row's `ratio_key` (by default its id) alone."""
        key = row.get("ratio_key", row.get("id"))
        text = f"{self.seed}/{row.get('epoch', 0)}/{key}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2

    def _padded(self, ids: list[list[int]]) -> dict[str, list[list[int]]]:
        return pad_rows(ids, self.processor.tokenizer, padding_side="right")

    def _visuals(self, row: Mapping[str, Any], ids: list[int]) -> dict[str, list[torch.Tensor]]:
        kind, items = media_items(row)
        limit = min(self.max_frames, row.get("max_frames", self.max_frames))
        if kind is None:
            return {}
        if kind == PIXELS:
            return {PIXELS: [capped(torch.as_tensor(item), limit) for item in items]}
        if kind == "video":
            sampling = {"fps": self.fps, "max_frames": limit} if _has_clock(items) else {"do_sample_frames": False}
            visuals = self.processor.visual_inputs([ids], videos=[items], **sampling)
            return {PIXELS: [capped(item, limit) for item in visuals[PIXELS]]}
        if kind == "frames":
            frames = self.processor.image_processor(items, as_frames=True)[PIXELS][0]  # [F, 3, H, W]
            one_span = ids.count(self.processor.video_token_id) == 1
            return {PIXELS: [capped(frames, limit)] if one_span else list(frames.split(1))}
        return {"pixel_values": list(self.processor.visual_inputs([ids], images=[items])["pixel_values"])}


def _has_clock(videos: Sequence[Any]) -> bool:
    """Arrays, lists and folders of pictures have no frame rate: their frames are taken as they are."""
    return all(isinstance(video, (str, os.PathLike)) and not os.path.isdir(video) for video in videos)


def capped(frames: torch.Tensor, limit: int) -> torch.Tensor:
    """At most `limit` of the frames [F, 3, H, W], evenly spread."""
    if len(frames) <= limit:
        return frames
    return frames[torch.from_numpy(np.linspace(0, len(frames) - 1, limit, dtype=int))]
