"""The right frame at the right time, against a plain decode from start to end and the number burnt into the frame."""

from pathlib import Path

import av
import numpy as np
import pytest
from video_files import FILMS, UNEVEN, add_hidden_packet, decode_plainly, number_in, write_video

from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
from videoxl.processing.video_reading_videoxl import VideoDecodeError, read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling

REAL = ["a.mp4", "b.avi", "b.mp4", "muted_b.mp4", "world.mp4"]
SAMPLINGS = [
    FrameSampling(every_frame=True),
    FrameSampling(num_frames=7),
    FrameSampling(fps=3),
    FrameSampling(num_frames=2, start=1.1, end=2.0),
]


def check_frames(path, truth, sampling):
    with read_video(path, sampling) as stream:
        came = list(stream)
        metadata = stream.metadata
    assert metadata.total_num_frames == len(truth)
    assert len(came) == len(metadata.frames_indices) == len(stream)
    assert [seconds for seconds, _ in came] == metadata.timestamps
    for index, (_, frame) in zip(metadata.frames_indices, came):
        np.testing.assert_array_equal(frame, truth[index])
    return came, metadata


@pytest.mark.parametrize("name", [name for name in FILMS if name != "single_frame.mp4"])
def test_every_kind_of_film(film, name):
    truth = decode_plainly(film(name))
    assert [number_in(frame) for frame in truth] == list(range(60))
    for sampling in SAMPLINGS:
        came, metadata = check_frames(film(name), truth, sampling)
        assert [number_in(frame) for _, frame in came] == metadata.frames_indices
        assert (metadata.height, metadata.width) == truth[0].shape[:2]


@pytest.mark.parametrize("name", REAL)
def test_real_videos(real_videos, name):
    path = str(real_videos / name)
    truth = decode_plainly(path)
    for sampling in (FrameSampling(num_frames=9), FrameSampling(fps=2, start=1.5, end=4.2)):
        check_frames(path, truth, sampling)


def test_times_of_even_and_uneven_frames(film):
    for name, truth in [("b_frames.mp4", np.arange(60) * 0.04), ("late_start.mp4", np.arange(60) * 0.04)]:
        with read_video(film(name), FrameSampling(every_frame=True)) as stream:
            np.testing.assert_allclose(stream.metadata.timestamps, truth, atol=1e-9)
            assert stream.metadata.fps == 25 and stream.metadata.duration == pytest.approx(2.4)
    for name in ("uneven.mp4", "uneven.mkv", "uneven.webm"):
        with read_video(film(name), FrameSampling(every_frame=True)) as stream:
            np.testing.assert_allclose(stream.metadata.timestamps, np.array(UNEVEN) / 1000, atol=1e-9)
            assert stream.metadata.fps == pytest.approx(59 / (UNEVEN[-1] / 1000), rel=0.01)


def test_times_where_the_container_stores_none(film):
    for name in ("no_times.h264", "h264_guessed_times.avi"):
        with read_video(film(name), FrameSampling(every_frame=True)) as stream:
            np.testing.assert_allclose(stream.metadata.timestamps, np.arange(60) * 0.04, atol=1e-9)


def test_window_in_seconds_of_uneven_frames(film):
    shown = [number for number, ms in enumerate(UNEVEN) if 500 <= ms < 2500]
    with read_video(film("uneven.mkv"), FrameSampling(num_frames=99, start=0.5, end=2.5)) as stream:
        assert [number_in(frame) for _, frame in stream] == shown


def test_edit_list_hides_frames(trimmed_film):
    with av.open(trimmed_film) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) > 25  # frames from the keyframe on are stored, but not to be shown
    with read_video(trimmed_film, FrameSampling(every_frame=True)) as stream:
        assert [number_in(frame) for _, frame in stream] == list(range(17, 42))
        assert stream.metadata.timestamps[0] == 0.0 and stream.metadata.duration == pytest.approx(1.0)
    with read_video(trimmed_film, FrameSampling(num_frames=3)) as stream:
        assert [number_in(frame) for _, frame in stream] == [17, 29, 41]


def turn(image, matrix):
    """The picture with every pixel moved by the matrix, x' = a x + c y, y' = b x + d y, pixel by pixel."""
    a, b, c, d = matrix
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    new_x, new_y = a * xs + c * ys, b * xs + d * ys
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    turned = np.zeros((new_y.max() + 1, new_x.max() + 1, 3), dtype=np.uint8)
    turned[new_y, new_x] = image
    return turned


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_turned_and_mirrored(turned_film, matrix):
    path = turned_film(matrix)
    stored = decode_plainly(path)
    with av.open(path) as container:
        angle = next(container.decode(video=0)).rotation
    with read_video(path, FrameSampling(num_frames=5)) as stream:
        frames = [frame for _, frame in stream]
        assert (stream.metadata.height, stream.metadata.width) == frames[0].shape[:2]
    for frame, image in zip(frames, stored):
        np.testing.assert_array_equal(frame, turn(image, matrix))
        if matrix[0] * matrix[3] - matrix[1] * matrix[2] == 1:  # no mirror: FFmpeg's own angle, counter-clockwise
            np.testing.assert_array_equal(frame, np.rot90(image, angle // 90))


def test_one_frame(film):
    (truth,) = decode_plainly(film("single_frame.mp4"))
    with read_video(film("single_frame.mp4")) as stream:
        ((seconds, frame),) = list(stream)
    assert seconds == 0.0
    np.testing.assert_array_equal(frame, truth)


def test_wrong_frame_count_in_the_header(film, tmp_path):
    data = bytearray(Path(film("mpeg4.avi")).read_bytes())
    main, stream_header = data.index(b"avih"), data.index(b"strh")
    for lie in (7, 600):
        data[main + 24 : main + 28] = data[stream_header + 40 : stream_header + 44] = lie.to_bytes(4, "little")
        path = tmp_path / f"lie{lie}.avi"
        path.write_bytes(data)
        with read_video(path, FrameSampling(num_frames=5)) as stream:
            assert stream.metadata.total_num_frames == 60
            assert [number_in(frame) for _, frame in stream] == [0, 14, 29, 44, 59]


def renumbered(stream: bytes) -> bytes:
    """An MPEG-TS whose packets' continuity counters go on over the splice, as a recorder would write them."""
    data, counters = bytearray(stream), {}
    for place in range(0, len(data), 188):
        name = bytes(data[place + 1 : place + 3])
        if data[place + 3] & 0x10 and name != b"\x1f\xff":
            counters[name[1], name[0] & 0x1F] = count = counters.get((name[1], name[0] & 0x1F), -1) + 1
            data[place + 3] = data[place + 3] & 0xF0 | count % 16
    return bytes(data)


@pytest.fixture
def film_with_hidden_packet(tmp_path):
    path = add_hidden_packet(write_video(tmp_path / "plain.mp4", "mpeg4", gop=600), tmp_path / "hidden.mp4", after=40)
    with av.open(path) as container:
        assert len([packet for packet in container.demux(video=0) if packet.size]) == 61
    return path


def test_packet_that_shows_nothing(film_with_hidden_packet):
    truth = decode_plainly(film_with_hidden_packet)
    assert len(truth) == 60
    processor = VideoXLVideoProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    for frames in (3, 7, 60):  # whole: read again where it turns out late
        batch = processor(film_with_hidden_packet, num_frames=frames)
        expected = np.linspace(0, 59, frames, dtype=int)
        assert batch["video_metadata"][0].frames_indices == expected.tolist()
        np.testing.assert_array_equal(
            batch["pixel_values_videos"][0].numpy(), np.stack([truth[i] for i in expected]).transpose(0, 3, 1, 2)
        )


def test_packet_that_shows_nothing_while_streaming(film_with_hidden_packet):
    with read_video(film_with_hidden_packet, FrameSampling(every_frame=True)) as stream:  # same frames: goes on
        assert [number_in(frame) for _, frame in stream] == list(range(60))
    with read_video(film_with_hidden_packet, FrameSampling(num_frames=7)) as stream:  # other frames: says so
        with pytest.raises(VideoDecodeError, match="Read it again"):
            list(stream)
        assert [number_in(frame) for _, frame in stream] == np.linspace(0, 59, 7, dtype=int).tolist()


def test_clock_that_jumps_back(film, tmp_path):
    path = tmp_path / "spliced.ts"
    path.write_bytes(renumbered(Path(film("mpeg2.ts")).read_bytes() * 2))
    truth = decode_plainly(path)
    came, metadata = check_frames(path, truth, FrameSampling(every_frame=True))
    assert np.all(np.diff(metadata.timestamps) > 0)
    assert [number_in(frame) for _, frame in came] == [number_in(frame) for frame in truth]
