"""From frames and image tiles to visual tokens, no more of them at a time than somebody asks for."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPVisionModel

from .configuration_videoxl import VideoXLConfig
from .threads_videoxl import VisionThread


class VideoXLProjector(nn.Module):
    """Linear, exact GELU, linear: from CLIP's width to the language model's."""

    def __init__(self, config: VideoXLConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`[F, P², D_vision]` to `[F, P², D]`."""
        return self.linear_2(F.gelu(self.linear_1(features)))


def patch_features(tower: CLIPVisionModel, pixel_values: torch.Tensor, layer: int) -> torch.Tensor:
    """
    CLIP's hidden state number `layer`, class token dropped, `[F, 3, H, W]` to `[F, P², D_vision]`.

    Only the layers up to it run: with the published -2 the last layer and the norm behind it have no say.
    """
    depth = layer if layer >= 0 else len(tower.encoder.layers) + 1 + layer
    hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))  # [F, 1 + P², D_vision]
    for encoder_layer in tower.encoder.layers[:depth]:
        hidden = encoder_layer(hidden, None)
    return hidden[:, 1:]


def pool_patches(features: torch.Tensor, stride: int, mode: str) -> torch.Tensor:
    """Pools every frame's square of patches, `[F, P², D]` to `[F, floor(P / stride)², D]`."""
    frames, patches, width = features.shape
    side = int(patches**0.5)
    grid = features.transpose(1, 2).reshape(frames, width, side, side)
    pooled = F.avg_pool2d(grid, stride) if mode == "average" else F.max_pool2d(grid, stride)
    return pooled.flatten(2).transpose(1, 2)


class FeatureStream:
    """
    The visual tokens of one span, encoded when a window asks for them.

    Whole tensors, a decoder that is still at work and a live stream look alike from here: an iterator of chunks.

    Args:
        chunks: pieces of the span in order, of any length, as `encode` takes them.
        encode: a chunk to its visual tokens, `[tokens, D]`.
        thread: that encodes chunks before they are asked for; by default none.
    """

    def __init__(
        self,
        chunks: Iterable,
        encode: Callable[[torch.Tensor], torch.Tensor],
        thread: "VisionThread | None" = None,
    ):
        self._features = map(encode, chunks) if thread is None else thread.features(chunks, encode)
        self._ready: list[torch.Tensor] = []

    @property
    def _count(self) -> int:
        return sum(part.shape[0] for part in self._ready)

    def _fill(self, count: int) -> None:
        while self._count < count:
            features = next(self._features, None)
            if features is None:
                return
            self._ready.append(features)

    def take(self, count: int) -> torch.Tensor:
        """The next `count` visual tokens, or as many as there are, `[<= count, D]`; None when there are none."""
        self._fill(count)
        if not self._count:
            return None
        ready = self._ready[0] if len(self._ready) == 1 else torch.cat(self._ready)
        self._ready = [ready[count:]] if ready.shape[0] > count else []
        return ready[:count]

    def take_all(self, count: int) -> torch.Tensor:
        """The next `count` visual tokens, `[count, D]`.

        Raises:
            ValueError: if there are fewer.
        """
        taken = self.take(count)
        came = 0 if taken is None else taken.shape[0]
        if came < count:
            raise ValueError(
                f"A video gave {count - came} visual tokens fewer than its placeholders are: frames that were planned "
                "did not come. Read it first (without stream=True), or leave allow_partial off."
            )
        return taken

    def exhausted(self) -> bool:
        """Whether nothing follows what was taken; looks one chunk ahead."""
        self._fill(1)
        return not self._count
