"""Videos to pixel values, without torchvision."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ChannelDimension, PILImageResampling
from transformers.video_processing_utils import VideoProcessorMixin

from .video_index_videoxl import MAX_FRAME_PIXELS
from .video_reading_videoxl import ReadAgainError, VideoDecodeError, VideoStream, VideoXLVideoMetadata, read_video
from .video_sampling_videoxl import FrameSampling
from .video_stream_videoxl import GeneratorStream, StreamedVideo, check_same_size

_SAMPLING_RULE = ("num_frames", "fps", "max_frames")
_READING = (
    "start",
    "end",
    "repeat_frames",
    "do_sample_frames",
    "sampling",
    "video_backend",
    "allow_partial",
    "allow_url",
    "num_threads",
    "fast_resize",
    "stream",
)


class VideoXLVideosKwargs(TypedDict, total=False):
    """What the video processor takes, at construction (as default) and per call; see `VideoXLVideoProcessor`."""

    num_frames: int | None
    fps: int | float | None
    max_frames: int | None
    start: int | float | None
    end: int | float | None
    repeat_frames: bool | None
    do_sample_frames: bool | None
    sampling: str | None
    video_backend: str | None
    allow_partial: bool | None
    allow_url: bool | None
    num_threads: int | None
    fast_resize: bool | None
    video_metadata: dict | VideoXLVideoMetadata | list | None
    do_resize: bool | None
    size: int | dict | None
    default_to_square: bool | None
    resample: int | None
    do_center_crop: bool | None
    crop_size: int | dict | None
    do_rescale: bool | None
    rescale_factor: int | float | None
    do_normalize: bool | None
    image_mean: float | list | tuple | None
    image_std: float | list | tuple | None
    stream: bool | None
    return_metadata: bool | None
    return_tensors: str | None
    device: str | torch.device | None


class VideoXLVideoProcessor(VideoProcessorMixin, PilBackend):
    """Turns videos into CLIP pixel values, equal to `CLIPImageProcessor`'s PIL output on every frame.

    Frames are resized (bicubic, shortest edge) and centre-cropped one by one while the video is decoded, so that only
    the result is held. Which videos are understood, and when `VideoDecodeError` is raised: `read_video`. Which frames
    are sampled: `FrameSampling`.

    Args of the constructor (defaults of every call) and of `__call__`:
        num_frames, fps, max_frames, start, end, repeat_frames: see `FrameSampling`. A call that gives one of
            `num_frames`, `fps`, `max_frames` replaces all three defaults.
        do_sample_frames: False reads every frame.
        sampling: "uniform" (default), or "keyframes": for each of those frames the nearest keyframe, see
            `FrameSampling`.
        video_backend, allow_partial, allow_url, num_threads: see `read_video`.
        fast_resize: files are resized by FFmpeg's swscale (bicubic) instead of PIL: less work, and pixels that
            differ by a few of 255 levels, most where frames shrink much.
        video_metadata: for pictures and arrays, {"fps": frames per second} (or a list with one per video).
        do_resize, size, resample, do_center_crop, crop_size, do_rescale, rescale_factor, do_normalize, image_mean,
            image_std: as in `CLIPImageProcessor`; 336 pixels by default.
        stream: True gives, in place of each tensor, what `stream_video` returns: read while the model works.
        return_metadata: False leaves `video_metadata` out of the result.
        return_tensors: "pt" (also None) or "np".
        device: where to put the tensors.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 336}  # noqa: RUF012 - the library reads and copies class attributes as defaults
    default_to_square = False
    crop_size = {"height": 336, "width": 336}  # noqa: RUF012
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    return_metadata = True
    valid_kwargs = VideoXLVideosKwargs
    model_input_names = ["pixel_values_videos"]  # noqa: RUF012

    def __call__(self, videos, **kwargs) -> BatchFeature:
        """Reads one video or several.

        Args:
            videos: one video (see `read_video`; a list of PIL images or of arrays [H, W, 3] is one video) or a list
                of videos, also nested by conversation.
            **kwargs: see the class.

        Returns:
            BatchFeature: `pixel_values_videos`, a list with one float32 tensor [F, 3, H, W] per video (their F may
            differ), and `video_metadata`, a list of `VideoXLVideoMetadata`.

        Raises:
            VideoDecodeError, ValueError, TypeError: see `read_video`; an unknown argument.
        """
        return self.preprocess(videos, **kwargs)

    def preprocess(self, videos, **kwargs) -> BatchFeature:
        """The same as calling the processor."""
        kwargs = self._checked(kwargs)
        videos = flatten_videos(videos)
        rates = _frame_rates(kwargs.pop("video_metadata", None), len(videos))
        tensors, metadata = [], []
        for video, rate in zip(videos, rates):
            if kwargs.get("stream"):
                tensors.append(self.stream_video(video, video_metadata=rate and {"fps": rate}, **kwargs))
                metadata.append(tensors[-1].metadata)
                continue
            video = list(video) if hasattr(video, "__next__") else video
            with self.open_video(video, frame_rate=rate, **kwargs) as stream:
                try:
                    pixels = self._read_whole(stream, kwargs)
                except ReadAgainError:
                    pixels = self._read_whole(stream, kwargs)
                tensors.append(pixels)
                metadata.append(stream.metadata)
        data = {"pixel_values_videos": tensors if kwargs.get("stream") else _as_asked(tensors, kwargs)}
        if kwargs.get("return_metadata", self.return_metadata) is not False:
            data["video_metadata"] = metadata
        return BatchFeature(data)

    def open_video(self, video, frame_rate: float | None = None, **kwargs) -> VideoStream:
        """Opens one video for streaming: iterating gives (seconds, frame uint8 [3, H, W], resized and cropped).

        `stream.metadata` is there before the first frame is decoded. Close it, or use it as a context manager.

        Args:
            frame_rate: frames per second of pictures or arrays.
            **kwargs: see the class.
        """
        kwargs = self._checked(kwargs)
        pixels = self._pixel_settings(kwargs)
        fit = self._fit(pixels, video)
        if hasattr(video, "__next__"):
            self._check_taken_whole(kwargs)
            return GeneratorStream(video, lambda frame: self._resized(frame, pixels, fit), frame_rate)
        return read_video(
            video,
            self._sampling(kwargs),
            video_backend=self._default(kwargs, "video_backend"),
            allow_partial=bool(self._default(kwargs, "allow_partial")),
            allow_url=bool(self._default(kwargs, "allow_url")),
            frame_rate=frame_rate,
            transform=lambda frame: self._resized(frame, pixels, fit),
            num_threads=self._default(kwargs, "num_threads"),
            fit=fit if self._default(kwargs, "fast_resize") else None,
        )

    def iter_chunks(self, video, chunk_frames: int = 16, **kwargs) -> Iterator[torch.Tensor]:
        """Pixel values float32 [f, 3, H, W] of at most `chunk_frames` frames each, while decoding goes on.

        Args:
            video: one video, or what `open_video` returned (its metadata can be watched; it is closed at the end).
            **kwargs: see the class.
        """
        if isinstance(chunk_frames, bool) or not isinstance(chunk_frames, int) or chunk_frames < 1:
            raise ValueError(f"`chunk_frames` must be a positive integer, got {chunk_frames!r}.")
        kwargs = self._checked(kwargs)
        if hasattr(video, "metadata"):
            streamed = StreamedVideo(lambda: video, self._levels(kwargs))
        else:
            streamed = self.stream_video(video, **kwargs)
        streamed.metadata  # noqa: B018 - what cannot be opened is an error at once
        return self._pixel_chunks(streamed, chunk_frames, kwargs)

    @staticmethod
    def _pixel_chunks(streamed: StreamedVideo, chunk_frames: int, kwargs: dict) -> Iterator[torch.Tensor]:
        with contextlib.closing(streamed.split(chunk_frames)) as chunks:
            for chunk in chunks:
                yield _as_asked([streamed.pixel_values(chunk)], kwargs)[0]

    def stream_video(self, video, **kwargs) -> StreamedVideo:
        """One video to be read while the model works on it: give it to the model in place of its pixel values.

        Args:
            video: what `read_video` takes, or a generator of PIL images or uint8 arrays [H, W, 3], which is taken
                whole.
            **kwargs: see the class.

        Returns:
            StreamedVideo: in `pixel_values_videos` of `forward` and `generate`, or for `prefill_video`.
        """
        kwargs = self._checked(dict(kwargs))
        rate = _frame_rates(kwargs.pop("video_metadata", None), 1)[0]
        return StreamedVideo(partial(self.open_video, video, frame_rate=rate, **kwargs), self._levels(kwargs))

    def _read_whole(self, stream: VideoStream, kwargs: dict) -> torch.Tensor:
        settings = self._pixel_settings(kwargs)
        pixels, count = None, 0
        with contextlib.closing(iter(stream)) as frames:
            for _, frame in frames:
                values = self._normalised(frame, settings)
                if pixels is None:
                    pixels = np.empty((len(stream), *values.shape), dtype=np.float32)  # [F, 3, H, W]
                check_same_size(pixels[0], values)
                pixels[count] = values
                count += 1
        return torch.from_numpy(pixels[:count])

    # --------------------------------------------------------------- settings

    def _checked(self, kwargs: dict) -> dict:
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__))
        if unknown:
            known = ", ".join(self.valid_kwargs.__annotations__)
            raise TypeError(f"{type(self).__name__} does not know {', '.join(map(repr, unknown))}; it takes {known}.")
        return kwargs

    def _check_taken_whole(self, kwargs: dict) -> None:
        names = (*_SAMPLING_RULE, "start", "end", "repeat_frames", "sampling")
        given = [name for name in names if kwargs.get(name) is not None]
        if given:
            raise ValueError(f"A generator of frames is taken whole: leave out {', '.join(given)}, or pass a list.")

    def _default(self, kwargs: dict, name: str):
        value = kwargs.get(name)
        return getattr(self, name, None) if value is None else value

    def _sampling(self, kwargs: dict) -> FrameSampling:
        rule = {name: kwargs.get(name) for name in _SAMPLING_RULE}
        every_frame = self._default(kwargs, "do_sample_frames") is False
        if all(value is None for value in rule.values()) and not every_frame:
            rule = {name: getattr(self, name, None) for name in _SAMPLING_RULE}
        repeat = kwargs.get("repeat_frames")
        if repeat is None:
            repeat = bool(self.repeat_frames and rule["num_frames"] is not None)
        names = ("start", "end", "sampling")
        given = {name: value for name in names if (value := self._default(kwargs, name)) is not None}
        return FrameSampling(**rule, **given, repeat_frames=repeat, every_frame=every_frame)

    def _pixel_settings(self, kwargs: dict) -> dict:
        names = [n for n in self.valid_kwargs.__annotations__ if n not in (*_SAMPLING_RULE, *_READING)]
        settings = self._standardize_kwargs(**{name: self._default(kwargs, name) for name in names})
        tensor_type = settings.get("return_tensors")
        if tensor_type not in (None, "pt", "np"):
            raise ValueError(f"`return_tensors` must be 'pt' or 'np', got {tensor_type!r}.")
        return settings

    # ----------------------------------------------------------------- pixels

    def _resized(self, frame: np.ndarray, settings: dict, fit: Callable | None) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [3, h, w], as `CLIPImageProcessor` with PIL does it; see `_fit`."""
        if fit is not None:  # the pixels are those of `resize` below, which copies a frame three times more
            height, width = fit(*frame.shape[:2])
            frame = np.array(Image.fromarray(frame).resize((width, height), settings["resample"]))
        image = np.moveaxis(frame, -1, 0)
        if fit is None and settings["do_resize"]:
            image = self.resize(image, size=settings["size"], resample=settings["resample"])
        if settings["do_center_crop"]:
            image = self.center_crop(image, settings["crop_size"])
        return image

    @staticmethod
    def _fit(settings: dict, video) -> Callable[[int, int], tuple[int, int]] | None:
        """Height and width of a frame -> those that resizing to a shortest edge gives it; None where it is another.

        A frame of one by a million pixels is small, but not with its shortest edge enlarged: that is an error.
        """
        edge = settings["size"].shortest_edge if settings["do_resize"] else None
        if not edge or settings["size"].longest_edge:  # which bounds the other
            return None

        @lru_cache(maxsize=16)  # the frames of a video are of one size, but for hostile ones
        def fit(height: int, width: int) -> tuple[int, int]:
            shape = np.broadcast_to(np.uint8(0), (3, height, width))
            to_height, to_width = get_resize_output_image_size(
                shape, edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
            )
            if to_height * to_width > MAX_FRAME_PIXELS:
                source = f"{video}: " if isinstance(video, (str, os.PathLike)) else ""
                raise VideoDecodeError(
                    f"{source}a frame of {width} x {height} pixels would become {to_width} x {to_height} with "
                    f"shortest edge {edge}; at most {MAX_FRAME_PIXELS} pixels are handled."
                )
            return to_height, to_width

        return fit

    def _normalised(self, image: np.ndarray, settings: dict) -> np.ndarray:
        """uint8 [3, h, w] -> float32 [3, h, w]."""
        if settings["do_rescale"]:
            image = self.rescale(image, settings["rescale_factor"])
        if settings["do_normalize"]:
            image = self.normalize(image, settings["image_mean"], settings["image_std"])
        return image.astype(np.float32, copy=False)

    def _levels(self, kwargs: dict) -> np.ndarray:
        """The pixel value of each of the 256 levels of each channel, float32 [3, 256]."""
        levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
        return self._normalised(levels, self._pixel_settings(kwargs))[:, 0]

    # ------------------------------------------------- transformers' own hooks

    def sample_frames(self, metadata, num_frames=None, fps=None, **kwargs) -> np.ndarray:
        """Indices of the frames that a call would sample from a video of evenly spaced frames, int64 [F]."""
        given = {"num_frames": num_frames, "fps": fps}
        given.update({name: kwargs[name] for name in ("max_frames", *_READING) if name in kwargs})
        rate = float(metadata.fps or 1.0)
        count = metadata.total_num_frames
        return self._sampling(given).indices(np.arange(count) / rate, rate, count / rate)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Decoded frames uint8 [F, H, W, 3] and metadata of one video, or two lists for a list of videos.

        Args:
            sample_indices_fn: called with `metadata=`, returns the frames' indices; None reads every frame.
        """
        if isinstance(video_url_or_urls, (list, tuple)):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]))
        options = {"video_backend": self.video_backend, "allow_url": bool(self.allow_url)}
        with read_video(video_url_or_urls, FrameSampling(every_frame=True), **options) as stream:
            if sample_indices_fn is not None:
                stream.select(sample_indices_fn(metadata=stream.metadata))
            return np.stack([frame for _, frame in stream]), stream.metadata


def flatten_videos(videos, depth: int = 0) -> list:
    """One video or (nested) lists of videos as a flat list, each item what `read_video` takes.

    A list of PIL images or arrays [H, W, 3] is one video; a list of names is several, except two lists deep, where
    it is (as in transformers) one video given by its pictures' names.
    """
    if not isinstance(videos, (list, tuple)):
        return list(videos) if getattr(videos, "ndim", 0) == 5 else [videos]
    if not videos:
        raise ValueError("An empty list is no video.")
    if all(isinstance(frame, Image.Image) or getattr(frame, "ndim", 0) == 3 for frame in videos):
        return [videos]
    if depth >= 2 and all(isinstance(name, (str, os.PathLike)) for name in videos):
        return [videos]
    return [video for item in videos for video in flatten_videos(item, depth + 1)]


def _frame_rates(metadata, count: int) -> list[float | None]:
    """The `fps` of each video's given metadata."""
    if metadata is None or hasattr(metadata, "keys"):
        metadata = [metadata] * count
    flat = [one for item in metadata for one in (item if isinstance(item, (list, tuple)) else [item])]
    if len(flat) != count:
        raise ValueError(f"`video_metadata` has {len(flat)} entries for {count} videos.")
    rates = [None if one is None else one["fps"] for one in flat]
    for rate in rates:
        if rate is not None and not rate > 0:
            raise ValueError(f"`video_metadata` with fps={rate!r}: frames per second must be above 0.")
    return rates


def _as_asked(tensors: list[torch.Tensor], kwargs: dict) -> list:
    if kwargs.get("return_tensors") == "np":
        return [tensor.numpy() for tensor in tensors]
    device = kwargs.get("device")
    return tensors if device is None else [tensor.to(device) for tensor in tensors]
