"""Frames read ahead, keyframes alone, and videos streamed into a model, against frames decoded plainly and whole."""

import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import UNEVEN, add_hidden_packet, decode_plainly, number_in, write_video

from videoxl.processing.video_backends_videoxl import PyAVReader
from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
from videoxl.processing.video_reading_videoxl import VideoDecodeError, read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling
from videoxl.processing.video_threads_videoxl import AHEAD, ReadingStoppedError

#: Films on which readers go wrong: variable rate, open groups of pictures, MPEG-TS.
UNEASY_FILMS = ["uneven.mp4", "uneven.mkv", "uneven.webm", "open_gop.mp4", "open_gop.mkv", "hevc_open_gop.mp4"]
UNEASY_FILMS += ["open_gop.ts", "h264.ts", "mpeg2.ts"]
KEY_FILMS = ["b_frames.mp4", "b_frames.mkv", "fragmented.mp4", "vp9.webm", "mpeg4.avi", "lossless.mkv", *UNEASY_FILMS]


@pytest.fixture
def processor():
    return VideoXLVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "videoxl-reading"]


def key_indices(path):
    """Of the frames, those that the file's packets call keyframes, in the order of display."""
    import av

    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_discard]
    shown = sorted(packets, key=lambda packet: packet.pts)
    return [index for index, packet in enumerate(shown) if packet.is_keyframe]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", ["b_frames.mp4", "one_keyframe.mp4", "av1.mp4", *UNEASY_FILMS])
def test_any_number_of_threads_reads_the_same(film, name, threads):
    truth = decode_plainly(film(name))
    for count in (60, 23, 4):
        with read_video(film(name), FrameSampling(num_frames=count), num_threads=threads) as stream:
            came = list(stream)
        assert len(came) == count
        for index, (_, frame) in zip(stream.metadata.frames_indices, came):
            np.testing.assert_array_equal(frame, truth[index])
    assert not reading_threads()


def check_keyframes(path, threads):
    """Reads the keyframes for nine frames of a film, against the packets' own word and a plain decode."""
    truth, keys = decode_plainly(path), key_indices(path)
    sampling = FrameSampling(num_frames=9, sampling="keyframes")
    with read_video(path, sampling, num_threads=threads) as stream:
        came, metadata = list(stream), stream.metadata
        times = stream._reader.times
    wanted = np.linspace(0, len(truth) - 1, 9, dtype=int)
    nearest = sorted({min(keys, key=lambda key: (abs(times[key] - times[index]), key)) for index in wanted})
    assert metadata.frames_indices == nearest
    assert metadata.sampling == "keyframes" and metadata.total_num_frames == len(truth)
    assert metadata.timestamps == [seconds for seconds, _ in came] == [times[index] for index in nearest]
    for index, (_, frame) in zip(nearest, came):
        np.testing.assert_array_equal(frame, truth[index])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KEY_FILMS)
def test_keyframes(film, name, threads):
    check_keyframes(film(name), threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_edit_lists_in_threads(trimmed_film, threads):
    check_keyframes(trimmed_film, threads)
    truth = decode_plainly(trimmed_film)
    with read_video(trimmed_film, FrameSampling(every_frame=True), num_threads=threads) as stream:
        np.testing.assert_array_equal([frame for _, frame in stream], truth)
    assert [number_in(frame) for frame in truth] == list(range(17, 42))


@pytest.mark.parametrize("sampling", ["uniform", "keyframes"])
def test_reading_ends_when_it_is_told_to(film, sampling):
    reader, stop = PyAVReader(film("b_frames.mp4")), threading.Event()
    own = reader.clone(1, stop)
    frames = own.frames(reader.keys if sampling == "keyframes" else range(60))
    assert next(frames)[0] == 0
    stop.set()
    with pytest.raises(ReadingStoppedError):
        list(frames)
    own.close()


def test_many_keyframes_are_sought(tmp_path):
    path = write_video(tmp_path / "long.mp4", frames=1600, gop=50, options={"preset": "ultrafast"})
    with read_video(path, FrameSampling(num_frames=2, sampling="keyframes"), num_threads=1) as stream:
        assert [number_in(frame) for _, frame in stream] == [0, 1550 % 256]
        assert stream.metadata.frames_indices == [0, 1550]


def test_keyframes_stay_inside_the_window_of_time(film):
    sampling = FrameSampling(num_frames=3, start=0.6, end=1.6, sampling="keyframes")
    with read_video(film("b_frames.mp4"), sampling) as stream:
        assert stream.metadata.frames_indices == [24, 36]


def test_where_no_keyframe_is_known(film):
    with read_video(film("no_times.h264"), FrameSampling(num_frames=5, sampling="keyframes")) as stream:
        assert stream.metadata.sampling == "uniform"
        assert [number_in(frame) for _, frame in stream] == [0, 14, 29, 44, 59]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": "sharpest"}, "'uniform' or 'keyframes'"),
        ({"sampling": "keyframes", "num_frames": 3, "repeat_frames": True}, "repeat_frames"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_settings_that_cannot_be_meant(processor, film, settings, words):
    with pytest.raises(ValueError, match=words):
        processor(film("b_frames.mp4"), **settings)


def test_a_stream_is_the_whole_piece_by_piece(processor, film):
    (whole,) = processor(film("b_frames.mp4"), num_frames=23)["pixel_values_videos"]
    (streamed,) = processor(film("b_frames.mp4"), num_frames=23, stream=True)["pixel_values_videos"]
    assert len(streamed) == 23
    pieces = list(streamed.split(5))
    assert [len(piece) for piece in pieces] == [5, 5, 5, 5, 3]
    assert all(piece.dtype == torch.uint8 for piece in pieces)
    assert torch.equal(torch.cat([streamed.pixel_values(piece) for piece in pieces]), whole)
    again = torch.cat([streamed.pixel_values(piece) for piece in streamed.split(64)])
    assert torch.equal(again, whole)
    assert streamed.frames_read == 23
    assert not reading_threads()


def test_a_second_reading_knows_the_true_frames(processor, tmp_path):
    path = add_hidden_packet(write_video(tmp_path / "plain.mp4", "mpeg4", gop=600), tmp_path / "hidden.mp4", after=40)
    streamed = processor.stream_video(path, num_frames=7, do_resize=False, do_center_crop=False)
    with pytest.raises(VideoDecodeError, match="Read it again") as caught:
        list(streamed.split(2))
    assert caught.value.read_again
    frames = torch.cat(list(streamed.split(2))).permute(0, 2, 3, 1).numpy()
    assert [number_in(frame) for frame in frames] == np.linspace(0, 59, 7, dtype=int).tolist()


@pytest.mark.parametrize("settings", [{"do_normalize": False}, {"do_rescale": False, "do_normalize": False}])
def test_levels_follow_the_settings(processor, film, settings):
    (whole,) = processor(film("b_frames.mp4"), num_frames=3, **settings)["pixel_values_videos"]
    streamed = processor.stream_video(film("b_frames.mp4"), num_frames=3, **settings)
    assert torch.equal(torch.cat([streamed.pixel_values(piece) for piece in streamed.split(2)]), whole)


def test_a_stream_goes_to_another_process(processor, film):
    streamed = processor.stream_video(film("b_frames.mp4"), num_frames=5)
    assert len(streamed) == 5
    there = pickle.loads(pickle.dumps(streamed))
    assert torch.equal(torch.cat(list(there.split(9))), torch.cat(list(streamed.split(9))))


def test_threads_end_with_who_stops_listening(processor, tmp_path):
    path = write_video(tmp_path / "long.mp4", frames=200, options={"preset": "ultrafast"})  # more than is read ahead
    pieces = processor.stream_video(path, do_sample_frames=False).split(4)
    next(pieces)
    assert reading_threads()
    pieces.close()
    assert not reading_threads()


def test_an_error_comes_behind_the_frames_before_it(processor, tmp_path):
    pictures = []
    for number in range(20):
        pictures.append(tmp_path / f"{number:02}.png")
        Image.new("RGB", (40, 40), (number, 0, 0)).save(pictures[-1])
    pictures[13].write_bytes(b"no picture")
    pieces = processor.stream_video(str(tmp_path), do_sample_frames=False).split(1)
    with pytest.raises(VideoDecodeError, match=r"13\.png"):
        for count, _ in enumerate(pieces, 1):
            assert count <= 13
    assert count == 13
    assert not reading_threads()


def test_one_opened_picture_many_times(processor, tmp_path):
    Image.new("RGB", (400, 400), (9, 99, 199)).save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:  # nothing of it is loaded yet
        (frames,) = processor([picture] * 40, do_sample_frames=False, num_threads=4)["pixel_values_videos"]
    assert torch.equal(frames, frames[:1].expand_as(frames))


def test_a_generator_is_taken_whole_and_once(processor):
    frames = [np.full((40, 50, 3), 10 * number, np.uint8) for number in range(7)]
    (whole,) = processor(np.stack(frames), do_sample_frames=False)["pixel_values_videos"]
    assert torch.equal(processor(iter(frames))["pixel_values_videos"][0], whole)
    streamed = processor.stream_video(frame for frame in frames)
    with pytest.raises(ValueError, match="not known before"):
        len(streamed)
    assert torch.equal(torch.cat([streamed.pixel_values(piece) for piece in streamed.split(3)]), whole)
    assert len(streamed) == 7 and streamed.metadata.timestamps == list(range(7))
    with pytest.raises(VideoDecodeError, match="once"):
        list(streamed.split(3))
    with pytest.raises(ValueError, match="num_frames"):
        list(processor.stream_video(iter(frames), num_frames=3).split(3))
    with pytest.raises(VideoDecodeError, match="no frames"):
        list(processor.stream_video(iter([])).split(3))


def test_fast_resize_is_near(processor, real_videos):
    path = str(real_videos / "b.mp4")
    (exact,) = processor(path, num_frames=5, do_normalize=False)["pixel_values_videos"]
    (fast,) = processor(path, num_frames=5, do_normalize=False, fast_resize=True)["pixel_values_videos"]
    assert fast.shape == exact.shape
    difference = (fast - exact).abs() * 255
    assert 0 < difference.mean() < 4


def test_turned_films_are_fitted_upright(film, tmp_path):
    from video_files import set_matrix

    path = write_video(tmp_path / "turned.mp4")
    set_matrix(path, (0, 1, -1, 0))
    frames = []
    for fast in (False, True):
        processor = VideoXLVideoProcessor(size={"shortest_edge": 48}, do_center_crop=False, do_normalize=False)
        frames.append(processor(path, num_frames=3, fast_resize=fast)["pixel_values_videos"][0])
    assert frames[0].shape == frames[1].shape == (3, 3, 80, 48)
    assert ((frames[0] - frames[1]).abs() * 255).mean() < 12


def test_times_of_uneven_keyframes(film):
    with read_video(film("uneven.mp4"), FrameSampling(num_frames=4, sampling="keyframes")) as stream:
        ticks = [UNEVEN[index] / 1000 for index in stream.metadata.frames_indices]
        np.testing.assert_allclose(stream.metadata.timestamps, ticks, atol=1e-9)


def test_what_is_read_ahead_is_bounded(tmp_path):
    """Over many short parts as well, which a thread reads one after the other."""
    path, made = write_video(tmp_path / "long.mp4", frames=400, options={"preset": "ultrafast"}), []
    with read_video(path, FrameSampling(fps=25, max_frames=400), num_threads=2, transform=made.append) as stream:
        assert len(stream) == 400
        frames = iter(stream)
        for _ in range(90):
            next(frames)
        frames.close()  # waits for the threads
    assert 90 <= len(made) <= 90 + 2 * (AHEAD + 1)  # and one in the hand of each
