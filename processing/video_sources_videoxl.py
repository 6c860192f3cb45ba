"""Videos that are no files: lists of pictures, arrays, folders of pictures, addresses."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from .video_index_videoxl import MAX_FRAME_PIXELS, VideoDecodeError

MAX_URL_BYTES = 8 * 1024**3
MAX_URL_SECONDS = 1800
_SOCKET_SECONDS = 30
_RUN = 8  # pictures that one thread reads in a row
_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class PictureReader:
    """Frames that are pictures already, with the reading interface of `PyAVReader`.

    Args:
        pictures: PIL images, paths of picture files, or uint8 arrays [H, W, 3].
        source: what to call it in messages.
        rate: frames per second, if known; without it frame i has the time i seconds and `has_clock` is False.
    """

    backend = "pictures"

    def __init__(self, pictures: Sequence, source: str, rate: float | None = None):
        if len(pictures) == 0:
            raise VideoDecodeError(f"{source}: it holds no frames.")
        self.path = source
        self.damage = []
        self.has_clock = rate is not None
        self.rate = float(rate or 1.0)
        self._pictures = pictures
        self.times = np.arange(len(pictures)) / self.rate
        self.duration = len(pictures) / self.rate
        self.size = self._load(0).shape[:2]

    def frames(self, indices: Sequence[int], allow_partial: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame uint8 [H, W, 3]); unreadable picture files raise or, `allow_partial`, are left out."""
        for index in indices:
            try:
                yield int(index), self._load(int(index))
            except VideoDecodeError:
                if not allow_partial:
                    raise

    @property
    def keys(self) -> np.ndarray:
        """Every picture stands for itself."""
        return np.arange(len(self.times))

    def parts(self, indices: Sequence[int]) -> list[list[int]]:
        """Runs that can be read at the same time; one where images are opened ones, of which two may be the same."""
        indices = [int(index) for index in indices]
        if any(isinstance(self._pictures[index], Image.Image) for index in indices):
            return [indices]
        return [indices[start : start + _RUN] for start in range(0, len(indices), _RUN)]

    def clone(self, threads: int, stop=None, fit=None) -> PictureReader:
        """Itself: several threads may read."""
        return self

    def _load(self, index: int) -> np.ndarray:
        return loaded_picture(self._pictures[index], f"{self.path}, frame {index}")

    def close(self) -> None:
        pass


def loaded_picture(picture, source: str) -> np.ndarray:
    """uint8 [H, W, 3] of a PIL image, a picture's path, or an array that is it already; `source` names it."""
    if isinstance(picture, (str, os.PathLike)):
        return _load_picture(os.fspath(picture))
    if isinstance(picture, Image.Image):
        return np.array(picture.convert("RGB"))
    return _checked_frame(picture, source)


def folder_pictures(folder: str) -> list[str]:
    """The picture files of a folder in natural order (frame2 before frame10).

    Raises:
        VideoDecodeError: there are none.
    """
    names = [n for n in os.listdir(folder) if os.path.splitext(n)[1].lower() in _PICTURES and not n.startswith(".")]
    if not names:
        raise VideoDecodeError(f"{folder}: a folder without pictures ({', '.join(sorted(_PICTURES))}).")
    return [os.path.join(folder, name) for name in sorted(names, key=_natural)]


def checked_video_array(video, source: str) -> np.ndarray:
    """A video given as an array: uint8 [F, H, W, 3], numpy or torch.

    Raises:
        ValueError: another shape or dtype, with the mend.
    """
    array = video.detach().cpu().numpy() if hasattr(video, "detach") else np.asarray(video)
    if array.ndim != 4 or array.shape[-1] != 3:
        hint = " (channels come last: use .permute(0, 2, 3, 1))" if array.ndim == 4 and array.shape[1] == 3 else ""
        raise ValueError(f"{source}: expected an array [frames, height, width, 3], got shape {array.shape}{hint}.")
    if array.dtype != np.uint8:
        raise ValueError(f"{source}: expected values 0..255 of dtype uint8, got {array.dtype}.")
    return array


@contextlib.contextmanager
def downloaded(url: str) -> Iterator[str]:
    """The file behind an http(s) address in a temporary place, gone afterwards.

    Raises:
        VideoDecodeError: another scheme, also after a redirect; unreachable; over `MAX_URL_BYTES` or
            `MAX_URL_SECONDS`.
    """
    suffix = os.path.splitext(urllib.parse.urlsplit(url).path)[1][:8]
    with tempfile.TemporaryDirectory(prefix="videoxl-") as folder:
        path = os.path.join(folder, "video" + re.sub(r"[^.\w]", "", suffix))
        try:
            _download(url, path)
        except VideoDecodeError:
            raise
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise VideoDecodeError(f"{url}: cannot be downloaded ({error}).") from error
        yield path


def _download(url: str, path: str) -> None:
    deadline = time.monotonic() + MAX_URL_SECONDS
    received = 0
    with _web_opener().open(url, timeout=_SOCKET_SECONDS) as response, open(path, "wb") as file:
        while block := response.read(1 << 20):
            received += len(block)
            if received > MAX_URL_BYTES:
                raise VideoDecodeError(f"{url}: more than {MAX_URL_BYTES} bytes; download it yourself.")
            if time.monotonic() > deadline:
                raise VideoDecodeError(f"{url}: not there after {MAX_URL_SECONDS} s; download it yourself.")
            file.write(block)


def _web_opener() -> urllib.request.OpenerDirector:
    """http and https only: the default opener would also follow file:, ftp: and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _natural(name: str) -> list:
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if place % 2 else part.lower() for place, part in enumerate(parts)] + [name]


def _load_picture(path: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise VideoDecodeError(f"{path}: {image.width} x {image.height} pixels; at most {MAX_FRAME_PIXELS}.")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoDecodeError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(f"{path}: not a picture that can be read ({error}).") from error


def _checked_frame(frame, source: str) -> np.ndarray:
    array = frame.detach().cpu().numpy() if hasattr(frame, "detach") else np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(f"{source}: expected uint8 [height, width, 3], got {array.dtype} {array.shape}.")
    return array
