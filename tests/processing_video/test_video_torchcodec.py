"""torchcodec, taken where it shows the same frames, and left alone where it does not.

Collected only where torchcodec is installed and loads; what becomes of reading elsewhere: `test_video_sources.py`.
"""

import numpy as np
import pytest
from video_files import FILMS, decode_plainly

from videoxl.processing.video_reading_videoxl import read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling

WAYS = [FrameSampling(every_frame=True), FrameSampling(num_frames=7), FrameSampling(num_frames=3, start=1.1, end=2.0)]


def check_frames(path, truth, backend, threads, sampling):
    """Reads the film, compares its frames with those of `truth`; the backend that read it."""
    with read_video(path, sampling, video_backend=backend, num_threads=threads) as stream:
        came = list(stream)
    assert stream.metadata.total_num_frames == len(truth) and len(came) == len(stream) > 0
    for index, (_, frame) in zip(stream.metadata.frames_indices, came):
        np.testing.assert_array_equal(frame, truth[index])
    return stream.metadata.video_backend


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["vp9.webm", "vp8_hidden_frames.webm", "uneven.webm", "av1.mp4", "av1.mkv"])
def test_it_reads_by_default(film, name, threads):
    truth = decode_plainly(film(name))
    for sampling in WAYS:
        assert check_frames(film(name), truth, None, threads, sampling) == "torchcodec"


def test_it_leaves_to_pyav_what_it_does_not_do(film):
    for request in ({"allow_partial": True}, {"fit": lambda height, width: (48, 80)}):
        with read_video(film("vp9.webm"), FrameSampling(num_frames=3), **request) as stream:
            assert stream.metadata.video_backend == "pyav"
    with read_video(film("vp9.webm"), FrameSampling(num_frames=3, sampling="keyframes")) as stream:
        assert stream.metadata.video_backend == "pyav"


def test_h264_stays_with_the_decoder_that_tells_of_damage(film):
    with read_video(film("b_frames.mp4"), FrameSampling(num_frames=3)) as stream:
        assert stream.metadata.video_backend == "pyav"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FILMS)
def test_asked_for_every_frame_is_right(film, name, threads):
    truth = decode_plainly(film(name))
    for sampling in WAYS[: 1 if name == "single_frame.mp4" else None]:
        check_frames(film(name), truth, "torchcodec", threads, sampling)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("b_frames.mp4", True),
        ("uneven.mkv", True),
        ("open_gop.mp4", False),
        ("hevc_open_gop.mp4", False),
        ("intra_refresh.mkv", False),
        ("h264.ts", False),
        ("mpeg4.avi", False),
    ],
)
def test_asked_for_it_gives_way_where_it_errs(film, name, reads, log_lines):
    with read_video(film(name), FrameSampling(num_frames=3), video_backend="torchcodec") as stream:
        assert stream.metadata.video_backend == ("torchcodec" if reads else "pyav")
    assert ("reading with 'pyav'" in log_lines.text) != reads


def test_edit_lists(trimmed_film):
    truth = decode_plainly(trimmed_film)
    for backend in (None, "torchcodec"):
        for sampling in WAYS[:2]:
            assert check_frames(trimmed_film, truth, backend, 2, sampling) == "pyav"
