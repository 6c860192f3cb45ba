"""Images into the tiles (or frames) that Video-XL's vision tower reads."""

import ast
import math
import os
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.processing_utils import ImagesKwargs

Pinpoints = list[tuple[int, int]]


class VideoXLImagesKwargs(ImagesKwargs, total=False):
    """
    image_grid_pinpoints (`list` or `str`, *optional*):
        The resolutions, (width, height) in pixels, that an image may be tiled at; see [`parse_pinpoints`].
    as_frames (`bool`, *optional*, defaults to `False`):
        Make all images of the call one span of frames instead of tiling each.
    allow_url (`bool`, *optional*, defaults to `False`):
        Whether a `http(s)://` address may be downloaded.
    """

    image_grid_pinpoints: list | str | None
    as_frames: bool | None
    allow_url: bool | None


def parse_pinpoints(pinpoints: str | Sequence[Sequence[int]], tile_size: int) -> Pinpoints:
    """
    The (width, height) resolutions, in pixels and in their order, that `pinpoints` stands for.

    Args:
        pinpoints: pairs of pixels, such as `[[336, 672], [672, 336]]`; the same as a string (the published
            configuration's form); or `"(1x1),…,(6x6)"`, every count of tiles from the first pair to the last, times
            the tile size (`...` serves as well as `…`).
        tile_size: side of a tile in pixels; every resolution must be a multiple of it.

    Raises:
        ValueError: naming what is wrong, if these are no pinpoints.
    """
    shown = repr(pinpoints)[:200]
    mend = f"give (width, height) pairs that are multiples of {tile_size}, or a range such as '(1x1),...,(6x6)'"
    if isinstance(pinpoints, str):
        ends = re.findall(r"\(\s*(\d{1,3})\s*x\s*(\d{1,3})\s*\)", pinpoints)
        pairs = _tile_range(ends, tile_size) if ends else _literal(pinpoints, mend)
    else:
        pairs = pinpoints
    if not isinstance(pairs, Sequence) or isinstance(pairs, str) or len(pairs) == 0:
        raise ValueError(f"image_grid_pinpoints must be a non-empty list of pairs, got {shown}: {mend}")
    for pair in pairs:
        is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not is_pair or not all(isinstance(n, int) and n > 0 and n % tile_size == 0 for n in pair):
            raise ValueError(f"image_grid_pinpoints holds {pair!r}, which fits no {tile_size}-pixel tiles: {mend}")
    return [(width, height) for width, height in pairs]


def _tile_range(ends: list[tuple[str, str]], tile_size: int) -> Pinpoints:
    (first_w, first_h), (last_w, last_h) = [tuple(map(int, pair)) for pair in (ends[0], ends[-1])]
    columns, rows = range(first_w, last_w + 1), range(first_h, last_h + 1)
    return [(w * tile_size, h * tile_size) for w in columns for h in rows]


def _literal(text: str, mend: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"image_grid_pinpoints cannot be read from {text[:200]!r}: {mend}") from error


def select_pinpoint(width: int, height: int, pinpoints: Pinpoints) -> tuple[int, int]:
    """
    The resolution that keeps most of a `width` x `height` image: most effective pixels, then least waste; the first
    listed wins ties. (The authors' rule; the paper's appendix calls the scheme AnyRes.)
    """

    def kept_and_waste(pinpoint: tuple[int, int]) -> tuple[int, int]:
        target_width, target_height = pinpoint
        scale = min(target_width / width, target_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - target_width * target_height

    return max(pinpoints, key=kept_and_waste)


def fit_and_pad(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """`image` resized (bicubic) to fit `target` (width, height), its aspect kept, centred on black."""
    scales = [target[axis] / image.size[axis] for axis in (0, 1)]
    filled = 0 if scales[0] < scales[1] else 1
    size = [min(math.ceil(image.size[axis] * scales[filled]), target[axis]) for axis in (0, 1)]
    size[filled] = target[filled]
    canvas = Image.new("RGB", target)
    canvas.paste(resize(image, size), tuple((target[axis] - size[axis]) // 2 for axis in (0, 1)))
    return canvas


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """
    `image` resized (bicubic) to `size` (width, height) in Pillow 13's order of passes.

    Earlier versions always run the horizontal pass first, and as both passes round to uint8, the order shows in the
    last bit of tall images. Two resizes of one side each give every version the same pixels.
    """
    width, height = size
    shrunk_by = image.height - height
    vertical_first = shrunk_by > 0 and shrunk_by > 2 * (image.width - width)
    between = (image.width, height) if vertical_first else (width, image.height)
    return image.resize(between, Image.Resampling.BICUBIC).resize((width, height), Image.Resampling.BICUBIC)


def split_tiles(image: np.ndarray, tile_size: int) -> list[np.ndarray]:
    """An image [3, H, W] cut into tiles [3, tile_size, tile_size], row by row."""
    _, height, width = image.shape
    corners = [(top, left) for top in range(0, height, tile_size) for left in range(0, width, tile_size)]
    return [image[:, top : top + tile_size, left : left + tile_size] for top, left in corners]


class VideoXLImageProcessor(CLIPImageProcessorPil):
    """
    Tiles of images, or frames made of images, as CLIP's (PIL) image processor prepares them.

    Each image is fitted to the best of `image_grid_pinpoints`, padded with black and cut into tiles row by row. The
    squashed copy of the whole image, which the authors' code computes and then drops, is not made.

    Calling it with one image or a list of them (PIL images, uint8 arrays or tensors [H, W, 3] or [3, H, W], paths;
    addresses with `allow_url=True`) returns

    - `pixel_values`: a list with one float32 tensor [tiles, 3, H, W] per image, and
      `image_sizes`: int64 [N, 2], (height, width) of each image; or, with `as_frames=True`,
    - `pixel_values_videos`: a list with one float32 tensor [F, 3, H, W], the images as frames of one span.

    Raises `ValueError` for anything that is no readable image, with its position in the call.
    """

    valid_kwargs = VideoXLImagesKwargs
    model_input_names = ("pixel_values", "image_sizes")

    size = {"shortest_edge": 336}  # noqa: RUF012 - transformers' image processors declare their defaults so
    crop_size = {"height": 336, "width": 336}  # noqa: RUF012
    image_grid_pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # noqa: RUF012
    as_frames = False
    allow_url = False

    def _validate_preprocess_kwargs(self, image_grid_pinpoints=None, crop_size=None, **kwargs) -> None:
        super()._validate_preprocess_kwargs(crop_size=crop_size, **kwargs)
        if crop_size is None or crop_size.height != crop_size.width:
            raise ValueError(f"crop_size is the side of a tile and must be square, got {crop_size}")

    def _preprocess_image_like_inputs(self, images: Any, *args, allow_url: bool = False, **kwargs) -> BatchFeature:
        opened = [open_image(image, place, allow_url) for place, image in enumerate(list_images(images))]
        prepared = [np.moveaxis(np.asarray(image), -1, 0) for image in opened]  # [3, H, W] uint8 each
        return self._preprocess(prepared, *args, **kwargs)

    def _preprocess(
        self,
        images: list[np.ndarray],
        image_grid_pinpoints: Any = None,
        as_frames: bool = False,
        return_tensors: Any = None,
        **kwargs,
    ) -> BatchFeature:
        if as_frames:
            return BatchFeature({"pixel_values_videos": [self._normalized(images, **kwargs)]})
        tile_size = kwargs["crop_size"].height
        pinpoints = parse_pinpoints(image_grid_pinpoints, tile_size)
        pixel_values = [self._normalized(self._tiles(image, pinpoints, tile_size), **kwargs) for image in images]
        image_sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)  # [N, 2]
        return BatchFeature({"pixel_values": pixel_values, "image_sizes": image_sizes})

    @staticmethod
    def _tiles(image: np.ndarray, pinpoints: Pinpoints, tile_size: int) -> list[np.ndarray]:
        picture = Image.fromarray(np.moveaxis(image, 0, -1))
        padded = fit_and_pad(picture, select_pinpoint(*picture.size, pinpoints))
        return split_tiles(np.moveaxis(np.asarray(padded), -1, 0), tile_size)

    def _normalized(self, images: list[np.ndarray], **kwargs) -> torch.Tensor:
        """CLIP's own preprocessing of each image: float32 [len(images), 3, H, W]."""
        batch = super()._preprocess(images, return_tensors=None, **kwargs)
        return torch.from_numpy(np.stack(batch["pixel_values"]).astype(np.float32, copy=False))


def list_images(images: Any) -> list[Any]:
    """`images` as a flat list: one image is a list of one, an array [N, H, W, 3] is N images."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        images = list(images) if images.ndim == 4 else [images]
    elif not isinstance(images, (list, tuple)):
        images = [images]
    if len(images) == 0:
        raise ValueError("images is empty: give at least one image")
    return list(images)


def open_image(image: Any, place: int, allow_url: bool = False) -> Image.Image:
    """
    One image of a user as an RGB `PIL.Image`; `place` is its position in the call, for the error.

    Files are turned upright by their EXIF orientation; images that come opened are taken as they are.
    """
    try:
        if isinstance(image, Image.Image):
            opened = image
        elif isinstance(image, (str, os.PathLike)):
            opened = ImageOps.exif_transpose(Image.open(_source(os.fspath(image), allow_url)))
        elif isinstance(image, (np.ndarray, torch.Tensor)):
            opened = _from_array(image)
        else:
            raise ValueError(f"is a {type(image).__name__}; give a PIL image, a uint8 array, or the path of a file")
        opened = opened.convert("RGB")
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        # PIL raises SyntaxError on some broken PNG and TIFF files
        reason = "is no image file that PIL can read" if isinstance(error, UnidentifiedImageError) else error
        name = f" ({os.fspath(image)[:200]})" if isinstance(image, (str, os.PathLike)) else ""
        raise ValueError(f"image {place}{name}: {reason}") from error
    if min(opened.size) == 0:
        raise ValueError(f"image {place}: is empty, {opened.width} x {opened.height} pixels")
    return opened


def _source(path: str, allow_url: bool) -> Any:
    if not re.match(r"https?://", path, flags=re.IGNORECASE):
        return path
    if not allow_url:
        raise ValueError("is an address; pass allow_url=True to download it")
    try:
        import httpx
    except ImportError as error:
        raise ValueError("downloading needs the package httpx, which huggingface_hub brings") from error
    try:
        response = httpx.get(path, follow_redirects=True, timeout=30)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ValueError(f"could not be downloaded: {error}") from error
    return BytesIO(response.content)


def _from_array(image: np.ndarray | torch.Tensor) -> Image.Image:
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if array.dtype != np.uint8:
        raise ValueError(f"is an array of {array.dtype}; give uint8 values from 0 to 255")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(f"is an array of shape {tuple(image.shape)}; give [H, W, 3] or [3, H, W]")
    return Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array)


__all__ = ["VideoXLImageProcessor", "parse_pinpoints"]
