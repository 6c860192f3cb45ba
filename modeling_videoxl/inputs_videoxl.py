"""What one call gives the model besides token ids: which tokens are visual, and the features that they stand for."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from .threads_videoxl import VisionThread, cores_are_idle
from .vision_videoxl import FeatureStream
from .windows_videoxl import IMAGE, TEXT, VIDEO, Items

NAMES = {IMAGE: "image", VIDEO: "video"}
PIXEL_ARGUMENTS = {IMAGE: "pixel_values", VIDEO: "pixel_values_videos"}


def as_items(name: str, pixels, image_size: int) -> list[torch.Tensor]:
    """
    The pixel tensors of a call, one `[F, 3, H, W]` per video, or `[tiles, 3, H, W]` per image; a video that is read
    while the model works (`VideoXLVideoProcessor.stream_video`) passes, its pieces are looked at when they come.

    Raises:
        ValueError: for a tensor of another shape, a name and a shape said.
    """
    if isinstance(pixels, torch.Tensor) and pixels.ndim == 4:
        pixels = [pixels]
    items = list(pixels)
    for index, item in enumerate(items):
        if is_streamed(item):
            continue
        shape = tuple(getattr(item, "shape", ()))
        if len(shape) != 4 or shape[1:] != (3, image_size, image_size) or not shape[0]:
            raise ValueError(
                f"{name}[{index}] has shape {shape or type(item).__name__}: give frames or tiles of shape [count, 3, "
                f"{image_size}, {image_size}] with at least one, as the processor makes them."
            )
    return items


def is_streamed(item) -> bool:
    """Whether this is a video whose frames are still to be read: it gives levels, and makes pixel values of them."""
    return hasattr(item, "pixel_values") and hasattr(item, "split")


def real_device(device: torch.device) -> torch.device | None:
    """None for the meta device: where weights are offloaded, hooks move the inputs to them."""
    return None if device.type == "meta" else device


def sent(states: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """
    `states` on `device`. To a GPU they go through pinned memory of their own, so that nobody has to wait until they
    are there, or for what the GPU was told before.
    """
    if device is None or device.type != "cuda" or states.device.type != "cpu":
        return states.to(device)
    return states.pin_memory().to(device, non_blocking=True)


def encoder_of(item, encode: Callable[[torch.Tensor], torch.Tensor], device, image_size: int):
    """`encode` for the pieces that `item.split` gives; those of a streamed video are normalised on `device`."""
    if not is_streamed(item):
        return encode

    def encode_levels(piece: torch.Tensor) -> torch.Tensor:
        (piece,) = as_items("a streamed video's frames", [piece], image_size)
        return encode(item.pixel_values(sent(piece, device)))

    return encode_levels


class VisualInputs:
    """
    The images and videos of one call.

    Args:
        pixels: by kind, what the caller passed, or None.
        encoded: transformers' `mm_encoder_outputs`: `{"image": output, "video": output}` whose `pooler_output` lists
            the features `[tokens, D]` of each item; or None.
        image_size (`int`): side of frames and tiles.
        tokens_per_item: by kind, the visual tokens of one frame or tile.
        chunk_size (`int`): frames that are encoded at once.
        encode: `(kind, pixel_values)` to features `[tokens, D]`.
        device: of the vision tower.
    """

    def __init__(
        self,
        pixels: dict[int, object],
        encoded: dict | None,
        image_size: int,
        tokens_per_item: dict[int, int],
        chunk_size: int,
        encode: Callable[[int, torch.Tensor], torch.Tensor],
        device: torch.device | None = None,
    ):
        self._device = device
        self._threads: list[VisionThread] = []  # one for each item: rows of a batch take their windows in turn
        self._chunk_tokens = {kind: tokens * chunk_size for kind, tokens in tokens_per_item.items()}
        self.lengths: dict[int, list[int]] = {}
        self._sources: dict[int, list[tuple]] = {}
        for kind, name in NAMES.items():
            given, features = pixels.get(kind), (encoded or {}).get(name)
            if given is not None and features is not None:
                raise ValueError(f"Both {PIXEL_ARGUMENTS[kind]} and mm_encoder_outputs[{name!r}] are given: give one.")
            if features is not None:
                features = getattr(features, "pooler_output", features)
                sources = [((item,), _unchanged) for item in features]
                lengths = [item.shape[0] for item in features]
            else:
                items = as_items(PIXEL_ARGUMENTS[kind], given, image_size) if given is not None else []
                encode_kind = partial(encode, kind)
                sources = [
                    (item.split(chunk_size), encoder_of(item, encode_kind, device, image_size)) for item in items
                ]
                lengths = [len(item) * tokens_per_item[kind] for item in items]
            self.lengths[kind], self._sources[kind] = lengths, sources

    def __bool__(self) -> bool:
        return any(self.lengths.values())

    def items(self, types: Sequence[np.ndarray]) -> dict[int, Items]:
        """The items to hand out to placeholders, checked against the number of these; `types` of every row."""
        counts = {kind: sum(int((row == kind).sum()) for row in types) for kind in NAMES}
        return {kind: Items(NAMES[kind], self.lengths[kind], counts[kind]) for kind in NAMES}

    def stream(self, kind: int, item: int) -> FeatureStream:
        """The visual tokens of one item, encoded as they are asked for, or a little before."""
        chunks, encode = self._sources[kind][item]
        if encode is _unchanged or not cores_are_idle(self._device):
            return FeatureStream(chunks, encode)
        self._threads.append(VisionThread())
        return FeatureStream(chunks, encode, self._threads[-1])

    def close(self) -> None:
        """Ends what encodes and reads videos while the model works."""
        for thread in self._threads:
            thread.close()
        for chunks, _ in (source for sources in self._sources.values() for source in sources):
            if hasattr(chunks, "close"):
                chunks.close()

    def chunks(self, kind: int, item: int, start: int, stop: int) -> int:
        """How many chunks of an item are encoded when its visual tokens `start` to `stop` are asked for, in order."""
        if self._sources[kind][item][1] is _unchanged:
            return 0
        size = self._chunk_tokens[kind]
        return -(-stop // size) - -(-start // size)


def _unchanged(features: torch.Tensor) -> torch.Tensor:
    return features


def new_columns(attention_mask: torch.Tensor | None, length: int) -> np.ndarray | None:
    """
    Which of the `length` new columns hold tokens, `[B, length]`, or None where all do.

    Raises:
        ValueError: for a mask that is not two-dimensional or shorter than the new tokens.
    """
    if attention_mask is None or length == 1:  # one new column is a token: only prompts are padded
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[1] < length:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: give [rows, tokens], 1 for tokens and 0 for "
            f"padding, with at least the {length} new tokens."
        )
    columns = attention_mask[:, -length:].to("cpu").numpy() != 0
    return None if columns.all() else columns


def token_types(
    input_ids: torch.Tensor | None, mm_token_type_ids: torch.Tensor | None, shape: tuple[int, int], ids: dict[int, int]
) -> np.ndarray:
    """
    `TEXT`, `IMAGE` or `VIDEO` for every new token, `[B, T]`.

    Args:
        mm_token_type_ids: where it is given it decides, and columns that it does not reach are text: a placeholder id
            that was generated stands for itself.
        ids: placeholder id by kind.
    """
    types = np.full(shape, TEXT, dtype=np.int64)
    if mm_token_type_ids is not None:
        given = mm_token_type_ids[:, : shape[1]].to("cpu").numpy()
        types[:, : given.shape[1]] = given
    elif input_ids is not None:
        tokens = input_ids.to("cpu").numpy()
        for kind, token_id in ids.items():
            types[tokens == token_id] = kind
    return types
