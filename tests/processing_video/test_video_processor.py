"""`VideoXLVideoProcessor`: pixel values, settings, streaming, and inside transformers' processor."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.image_processing_utils import BatchFeature
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.video_utils import VideoMetadata
from video_files import UNEVEN, decode_plainly, number_in, numbered_frame, write_video

from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
from videoxl.processing.video_reading_videoxl import VideoDecodeError

GOLDENS = Path(__file__).parents[1] / "fixtures" / "authors_tiny"


@pytest.fixture(scope="module")
def goldens():
    return load_file(GOLDENS / "cases.safetensors")


@pytest.fixture
def tiny_processor():
    return VideoXLVideoProcessor(**json.loads((GOLDENS / "checkpoint/clip/preprocessor_config.json").read_text()))


@pytest.fixture
def small():
    """48-pixel frames, to be quick."""
    return VideoXLVideoProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})


def clip_pixels(frames, **settings):
    """What `CLIPImageProcessor` with PIL makes of the frames, float32 [F, 3, H, W]."""
    clip = CLIPImageProcessorPil(**settings)
    return clip(frames, input_data_format="channels_last", return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("case", ["video2", "video4"])
def test_goldens(tiny_processor, goldens, case):
    frames, expected = goldens[f"{case}.frames"], goldens[f"{case}.pixel_values"]
    for video in (frames, frames.numpy(), [Image.fromarray(frame.numpy()) for frame in frames]):
        (pixels,) = tiny_processor(video, num_frames=len(frames))["pixel_values_videos"]
        assert pixels.dtype == torch.float32
        torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


def test_defaults_are_clip_at_336(film):
    truth = decode_plainly(film("odd_size.mp4"))
    batch = VideoXLVideoProcessor()(film("odd_size.mp4"), num_frames=3)
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    expected = clip_pixels([truth[0], truth[29], truth[59]], **size)
    torch.testing.assert_close(batch["pixel_values_videos"][0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 20, "width": 30}, "do_center_crop": False},
        {"do_resize": False, "crop_size": {"height": 120, "width": 90}},
        {"resample": 2, "do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    ],
)
def test_settings_per_call_and_per_processor(film, settings):
    base = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    truth = decode_plainly(film("b_frames.mp4"))
    expected = clip_pixels([truth[0], truth[59]], **{**base, **settings}).to(torch.float32)
    per_call = VideoXLVideoProcessor(**base)(film("b_frames.mp4"), num_frames=2, **settings)
    per_processor = VideoXLVideoProcessor(**{**base, **settings})(film("b_frames.mp4"), num_frames=2)
    for batch in (per_call, per_processor):
        torch.testing.assert_close(batch["pixel_values_videos"][0], expected, atol=1e-6, rtol=0)


def test_metadata(small, film):
    batch = small(film("uneven.mkv"), num_frames=3)
    (metadata,) = batch["video_metadata"]
    assert isinstance(metadata, VideoMetadata)
    assert metadata.frames_indices == [0, 29, 59] and metadata.total_num_frames == 60
    assert metadata.timestamps == [UNEVEN[number] / 1000 for number in (0, 29, 59)]
    assert (metadata.width, metadata.height) == (160, 96)
    assert metadata.video_backend == "pyav" and metadata.source == film("uneven.mkv")
    assert "video_metadata" not in small(film("uneven.mkv"), num_frames=3, return_metadata=False)


def test_one_video_or_several(small, film):
    one, other = film("b_frames.mp4"), Path(film("vp9.webm"))
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(5)]
    array = np.stack([numbered_frame(number) for number in range(7)])
    for videos, frames in [
        (one, [4]),
        ([one], [4]),
        ([one, other], [4, 4]),
        ([[one], [other]], [4, 4]),
        (pictures, [4]),
        ([pictures, pictures[:2]], [4, 2]),
        ([one, pictures, array], [4, 4, 4]),
        ([array, array[:3]], [4, 3]),
        (np.stack([array, array]), [4, 4]),
    ]:
        batch = small(videos, num_frames=4)
        assert isinstance(batch, BatchFeature)
        assert [tuple(pixels.shape) for pixels in batch["pixel_values_videos"]] == [(n, 3, 48, 48) for n in frames]
        assert len(batch["video_metadata"]) == len(frames)


def test_videos_given_by_their_pictures_names(small, tmp_path):
    names = []
    for number in (5, 3, 4):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
        names.append(str(tmp_path / f"{number}.png"))
    batch = small([[names]])  # nested as transformers nests them; the order given counts
    expected = small(np.stack([numbered_frame(number) for number in (5, 3, 4)]))
    assert len(batch["pixel_values_videos"]) == 1
    torch.testing.assert_close(batch["pixel_values_videos"], expected["pixel_values_videos"], atol=0, rtol=0)


def test_clock_of_pictures(small):
    video = np.stack([numbered_frame(number) for number in range(40)])
    batch = small(video, fps=2, video_metadata={"fps": 10})
    assert batch["video_metadata"][0].frames_indices == list(range(0, 40, 5))
    batch = small([video, video], fps=2, video_metadata=[[{"fps": 10}], [VideoMetadata(40, fps=20)]])
    assert [len(pixels) for pixels in batch["pixel_values_videos"]] == [8, 4]
    with pytest.raises(ValueError, match="3 entries for 2 videos"):
        small([video, video], video_metadata=[{"fps": 1}] * 3)
    with pytest.raises(ValueError, match="fps=0"):
        small(video, video_metadata={"fps": 0})


def test_saved_sampling_is_a_default_that_a_call_replaces(film):
    small = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    processor = VideoXLVideoProcessor(**small, num_frames=5, end=2.0)
    indices = lambda **request: processor(film("b_frames.mp4"), **request)["video_metadata"][0].frames_indices  # noqa: E731
    assert indices() == np.linspace(0, 49, 5, dtype=int).tolist()
    assert indices(fps=5) == list(range(0, 50, 5))
    assert indices(fps=5, max_frames=4) == np.linspace(0, 49, 4, dtype=int).tolist()
    assert indices(num_frames=2, end=1.0) == [0, 24]
    assert indices(do_sample_frames=False) == list(range(50))


def test_save_and_load(tmp_path, film):
    processor = VideoXLVideoProcessor(
        size={"shortest_edge": 48}, crop_size=48, num_frames=3, image_mean=[0.1, 0.2, 0.3]
    )
    processor.save_pretrained(tmp_path)
    loaded = VideoXLVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert VideoXLVideoProcessor.from_dict(processor.to_dict()).to_dict() == processor.to_dict()
    one, other = processor(film("b_frames.mp4")), loaded(film("b_frames.mp4"))
    torch.testing.assert_close(one["pixel_values_videos"], other["pixel_values_videos"], atol=0, rtol=0)
    changed = VideoXLVideoProcessor.from_pretrained(tmp_path, num_frames=6)
    assert len(changed(film("b_frames.mp4"))["pixel_values_videos"][0]) == 6


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"frames": 8}, TypeError, "does not know 'frames'; it takes num_frames"),
        ({"num_frames": 0}, ValueError, "positive integer"),
        ({"num_frames": 4, "fps": 1}, ValueError, "two different rules"),
        ({"start": 2, "end": 1}, ValueError, "must be before"),
        ({"video_backend": "cv2"}, ValueError, "'cv2' is unknown; supported are 'pyav', 'decord', 'torchcodec'"),
        ({"return_tensors": "tf"}, ValueError, "'pt' or 'np'"),
    ],
)
def test_arguments_that_cannot_be_meant(small, film, arguments, error, words):
    with pytest.raises(error, match=words):
        small(film("b_frames.mp4"), **arguments)


def test_an_empty_list_and_a_missing_file(small, tmp_path):
    with pytest.raises(ValueError, match="no video"):
        small([])
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4: no such file"):
        small(tmp_path / "gone.mp4")


def test_numpy(small, film):
    (pixels,) = small(film("b_frames.mp4"), num_frames=2, return_tensors="np")["pixel_values_videos"]
    assert isinstance(pixels, np.ndarray) and pixels.shape == (2, 3, 48, 48) and pixels.dtype == np.float32


# ------------------------------------------------------------------ streaming


@pytest.mark.parametrize("chunk_frames", [1, 7, 16, 100])
def test_chunks_join_to_the_whole(small, film, chunk_frames):
    whole = small(film("b_frames.mp4"), num_frames=20)["pixel_values_videos"][0]
    chunks = list(small.iter_chunks(film("b_frames.mp4"), chunk_frames=chunk_frames, num_frames=20))
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_frames] * (len(chunks) - 1)
    torch.testing.assert_close(torch.cat(chunks), whole, atol=0, rtol=0)


def test_chunks_of_an_opened_video(small, film):
    stream = small.open_video(film("b_frames.mp4"), fps=5)
    assert len(stream) == 12 and stream.metadata.timestamps == pytest.approx([0.2 * n for n in range(12)])
    seconds, frame = next(iter(stream))
    assert seconds == 0.0 and frame.shape == (3, 48, 48) and frame.dtype == np.uint8
    assert sum(len(chunk) for chunk in small.iter_chunks(stream, chunk_frames=5)) == 12


def open_files() -> set[str]:
    return {os.path.realpath(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd")}


def test_an_abandoned_stream_closes_its_file(small, film):
    path = os.path.realpath(film("one_keyframe.mp4"))
    chunks = small.iter_chunks(path, chunk_frames=2, num_frames=50)
    next(chunks)
    assert path in open_files()
    chunks.close()
    gc.collect()
    assert path not in open_files()


INTERRUPTED = """
import contextlib, os, signal, sys
sys.path.insert(0, {tests!r})
from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
chunks = VideoXLVideoProcessor().iter_chunks({path!r}, chunk_frames=1, {reading})
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
try:
    with contextlib.closing(chunks):
        for number, chunk in enumerate(chunks):
            if number == 2:
                print("reading", flush=True)
except KeyboardInterrupt:
    names = [os.path.realpath("/proc/self/fd/" + entry) for entry in os.listdir("/proc/self/fd")]
    print("interrupted", {path!r} in names, flush=True)
"""


@pytest.mark.parametrize("reading", ["do_sample_frames=False", "num_frames=2000, sampling='keyframes'"])
def test_ctrl_c_ends_reading_cleanly(tmp_path, reading):
    path = os.path.realpath(write_video(tmp_path / "long.mp4", frames=2000, options={"preset": "ultrafast"}))
    code = INTERRUPTED.format(tests=str(Path(__file__).parent), path=path, reading=reading)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted False\n"
        assert process.wait() == 0


# ------------------------------------------------- inside transformers' own


class OnlyVideos(ProcessorMixin):
    """transformers' generic processor around the video processor alone."""

    def __init__(self, video_processor=None):
        self.video_processor = video_processor


def test_called_by_transformers_processor(small, film):
    processor = OnlyVideos(small)
    batch = processor(videos=[film("b_frames.mp4")], fps=5, max_frames=4, end=1.0, return_metadata=True)
    assert batch["video_metadata"][0].frames_indices == np.linspace(0, 24, 4, dtype=int).tolist()
    assert batch["pixel_values_videos"][0].shape == (4, 3, 48, 48)
    batch = processor(videos=[film("b_frames.mp4")], videos_kwargs={"num_frames": 3, "video_backend": "decord"})
    assert len(batch["pixel_values_videos"][0]) == 3


def test_transformers_hooks(small, film):
    frames, metadata = small.fetch_videos(film("b_frames.mp4"), sample_indices_fn=lambda metadata: [3, 5, 58])
    assert [number_in(frame) for frame in frames] == [3, 5, 58] == metadata.frames_indices
    (one, other), _ = small.fetch_videos([film("b_frames.mp4"), film("animated.gif")])
    assert len(one) == len(other) == 60
    metadata = VideoMetadata(total_num_frames=300, fps=30.0)
    assert small.sample_frames(metadata, num_frames=8).tolist() == np.linspace(0, 299, 8, dtype=int).tolist()
    assert small.sample_frames(metadata, fps=2).tolist() == list(range(0, 300, 15))
    assert small.sample_frames(metadata).tolist() == list(range(0, 300, 30))
