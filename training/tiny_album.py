"""Films put together from an album: frames that the vision tower has seen once stand for all that show the same.

While tower and projector rest, what they send for a frame never changes. So the language model learns from pictures at
the price of words: thousands of drawn frames are encoded once, and a film takes its frames from them.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.vision_videoxl import patch_features, pool_patches
from videoxl.synthetic.backgrounds import Background
from videoxl.synthetic.films import FRAME_SIZE
from videoxl.synthetic.needles import VALUES, Needle, colours_of, overlay
from videoxl.synthetic.tasks import sample_rng

from .tiny_data import FRAMES_PER_SCENE, LATEST_FRAME, PLAIN, words_of
from .tiny_parts import normalized
from .tiny_words import SpelledCollator, SpelledTrainer

LONGEST_SHOT = 30  # frames of a film that one scene's plain frames stand for
ENCODED_AT_ONCE = 256
COLOURS_EACH = 6  # that training shows a value in


class AlbumFrames(Dataset):
    """
    The album's frames, uint8 [S, S, 3]: for each needle that films of a split show, some looks; then scenes, of
    `FRAMES_PER_SCENE` frames each, without any.

    Args:
        looks: of each pair of value and colour; an anomaly, which has no colour, gets as many as all of a value's.
        scenes: how many.
        seed, split: of the frames.
    """

    def __init__(self, looks: int, scenes: int, seed: int, split: str = "train"):
        self.seed, self.split = seed, split
        self.shown: list[tuple[str, str, str] | None] = []  # kind, value and colour of each frame's needle
        for kind, values in VALUES.items():
            for value in values:
                colours = colours_of(split, kind, value)
                times = looks * COLOURS_EACH // len(colours)
                self.shown += [(kind, value, colour) for colour in colours for _ in range(times)]
        self.shown += [None] * (scenes * FRAMES_PER_SCENE)

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: int) -> np.ndarray:
        rng = sample_rng(self.split, self.seed, 6, index)
        scene = index // FRAMES_PER_SCENE
        background = Background(int(sample_rng(self.split, self.seed, 7, scene).integers(2**40)), FRAME_SIZE)
        pixels = background.frame(scene % LATEST_FRAME + int(rng.integers(LONGEST_SHOT)))
        if self.shown[index] is None:
            return pixels
        kind, value, colour = self.shown[index]
        return overlay(pixels, Needle(kind, value, colour, int(rng.integers(2**40))))

    def pages(self) -> dict[str, list[int]]:
        """The frames that show the same, by the words for it."""
        pages: dict[str, list[int]] = {}
        for index, shown in enumerate(self.shown):
            pages.setdefault(PLAIN if shown is None else words_of(Needle(*shown)), []).append(index)
        return pages


@torch.no_grad()
def encode_album(model: VideoXLForCausalLM, frames: Dataset, workers: int = 1) -> torch.Tensor:
    """What the model's tower and projector send for each frame, bfloat16 [frames, M, D]."""
    config, tower, projector = model.config, model.model.vision_tower, model.model.multi_modal_projector
    loader = DataLoader(frames, ENCODED_AT_ONCE, num_workers=workers)
    sent = []
    with torch.autocast(model.device.type, torch.bfloat16):
        for pixels in loader:
            seen = patch_features(tower, normalized(pixels).to(model.device), config.vision_feature_layer)
            pooled = pool_patches(projector(seen), config.spatial_pool_stride, config.spatial_pool_mode)  # [B, M, D]
            sent.append(pooled.bfloat16().cpu())
    return torch.cat(sent)


class AlbumCollator(SpelledCollator):
    """Each frame becomes the index of a page that shows it."""

    def __init__(self, *args: Any, pages: Mapping[str, Sequence[int]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pages = pages

    def code(self, row: Mapping[str, Any]) -> torch.Tensor:
        """int64 [F]; a function of the row's id, which its film is, too."""
        rng = np.random.default_rng(zlib.crc32(str(row["id"]).encode()))
        plain = np.reshape(self.pages[PLAIN], (-1, FRAMES_PER_SCENE))
        scene, chosen = None, []
        for words in row["spelled"]:
            if scene is None or rng.random() < 1 / LONGEST_SHOT:
                scene = rng.choice(plain)
            chosen.append(int(rng.choice(scene if words == PLAIN else self.pages[words])))
        return torch.tensor(chosen)


class AlbumTrainer(SpelledTrainer):
    """
    Puts the album's visual tokens in the place of those of the film's frames; tower and projector rest.

    Args:
        frames: of the album.
        blur: each frame's visual tokens are mixed with those of another page by a share drawn up to this. For pairs of
            sign and colour that no training film shows, the projector sends something a little like other pairs'.
        kwargs: see the parent.
    """

    def __init__(self, *, frames: AlbumFrames, blur: float, model: VideoXLForCausalLM, **kwargs: Any):
        self.collator_class = partial(AlbumCollator, pages=frames.pages())
        super().__init__(model=model, **kwargs)
        self.blur = blur
        with self.accelerator.split_between_processes(list(range(len(frames))), apply_padding=True) as mine:
            sent = encode_album(model, Subset(frames, mine), self.args.dataloader_num_workers)
        self.album = self.accelerator.gather(sent)[: len(frames)]  # [pages, M, D]

    def visual_tokens(self, model: VideoXLForCausalLM, film: torch.Tensor) -> torch.Tensor:
        """See the parent."""
        film = film.cpu()
        others = self.album[torch.randint(len(self.album), film.shape)]  # [F, M, D]
        shares = self.blur * torch.rand(len(film), 1, 1, dtype=self.album.dtype)
        return torch.lerp(self.album[film], others, shares).flatten(0, 1).to(model.device)
