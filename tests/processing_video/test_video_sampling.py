"""The authors' sampling rules, restated."""

import numpy as np
import pytest
from video_files import number_in

from videoxl.processing.video_reading_videoxl import read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling


def picked(count, rate, **request):
    return FrameSampling(**request).indices(np.arange(count) / rate, rate, count / rate).tolist()


@pytest.mark.parametrize("count", [8, 9, 100, 1801])
@pytest.mark.parametrize("frames", [1, 2, 7, 8])
def test_uniform(count, frames):
    assert picked(count, 25, num_frames=frames) == np.linspace(0, count - 1, frames, dtype=int).tolist()


@pytest.mark.parametrize(
    "count, rate, fps", [(300, 30, 1), (300, 29.97, 2), (100, 25, 12), (100, 25, 60), (10, 30, 1)]
)
def test_training_rule(count, rate, fps):
    step = max(round(rate / fps), 1)
    assert picked(count, rate, fps=fps) == list(range(0, count, step))


def test_cap():
    assert picked(3000, 30, fps=2, max_frames=200) == list(range(0, 3000, 15))
    assert picked(3000, 30, fps=2, max_frames=64) == np.linspace(0, 2999, 64, dtype=int).tolist()


def test_default_is_one_per_second_at_most_256():
    assert picked(600, 30) == list(range(0, 600, 30))
    assert picked(30 * 257, 30) == np.linspace(0, 30 * 257 - 1, 256, dtype=int).tolist()
    assert picked(600, 30, max_frames=4) == np.linspace(0, 599, 4, dtype=int).tolist()


def test_window_of_seconds():
    assert picked(100, 10, every_frame=True, start=2, end=3) == list(range(20, 30))
    assert picked(100, 10, num_frames=3, start=9) == [90, 94, 99]
    assert picked(100, 10, fps=5, end=1) == [0, 2, 4, 6, 8]
    assert picked(100, 10, num_frames=1, start=2.51, end=2.55) == [25]  # between two frames: the one on display
    assert picked(100, 10, every_frame=True, end=1000) == list(range(100))


def test_more_frames_than_there_are(film, log_lines):
    with read_video(film("b_frames.mp4"), FrameSampling(num_frames=100)) as stream:
        assert len(list(stream)) == 60
    assert "there are 60 frames" in log_lines.text
    with read_video(film("b_frames.mp4"), FrameSampling(num_frames=100, repeat_frames=True)) as stream:
        expected = np.linspace(0, 59, 100, dtype=int).tolist()
        assert [number_in(frame) for _, frame in stream] == expected == stream.metadata.frames_indices


@pytest.mark.parametrize(
    "request_, words",
    [
        ({"num_frames": 0}, "num_frames.*positive integer"),
        ({"num_frames": -3}, "num_frames.*positive integer"),
        ({"num_frames": 2.5}, "num_frames.*positive integer"),
        ({"num_frames": True}, "num_frames.*positive integer"),
        ({"num_frames": "8"}, "num_frames.*positive integer"),
        ({"max_frames": 0}, "max_frames.*positive integer"),
        ({"fps": 0}, "fps.*above 0"),
        ({"fps": -1.0}, "fps.*above 0"),
        ({"fps": float("nan")}, "fps.*above 0"),
        ({"fps": "1"}, "fps.*above 0"),
        ({"num_frames": 8, "fps": 1}, "two different rules"),
        ({"num_frames": 8, "max_frames": 8}, "max_frames.*leave it out"),
        ({"start": -1}, "start.*0 or more"),
        ({"end": float("inf")}, "end.*number of seconds"),
        ({"start": 5, "end": 5}, "start=5.*before.*end=5"),
        ({"repeat_frames": True}, "goes with `num_frames`"),
        ({"every_frame": True, "fps": 1}, "every frame"),
    ],
)
def test_requests_that_cannot_be_meant(request_, words):
    with pytest.raises(ValueError, match=words):
        FrameSampling(**request_)


def test_start_behind_the_end(film):
    with pytest.raises(ValueError, match=r"start=7.*lasts 2\.400 s"):
        read_video(film("b_frames.mp4"), FrameSampling(start=7))
