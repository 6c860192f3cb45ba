"""Pictures, arrays, folders, addresses, other decoders."""

import functools
import http.server
import os
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import decode_plainly, number_in, numbered_frame

from videoxl.processing import video_adapters_videoxl, video_sources_videoxl
from videoxl.processing.video_reading_videoxl import VideoDecodeError, read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling


def numbers(video, sampling=None, **options):
    with read_video(video, sampling, **options) as stream:
        return [number_in(frame) for _, frame in stream]


def test_pictures_and_arrays():
    frames = [numbered_frame(number) for number in range(12)]
    for video in (
        [Image.fromarray(frame) for frame in frames],
        frames,
        np.stack(frames),
        torch.from_numpy(np.stack(frames)),
        [torch.from_numpy(frame) for frame in frames],
    ):
        assert numbers(video) == list(range(12))
        assert numbers(video, FrameSampling(num_frames=4)) == [0, 3, 7, 11]


def test_pictures_with_a_clock():
    video = np.stack([numbered_frame(number) for number in range(60)])
    assert numbers(video, FrameSampling(fps=2), frame_rate=20) == list(range(0, 60, 10))
    assert numbers(video, FrameSampling(num_frames=99, start=1, end=1.2), frame_rate=20) == [20, 21, 22, 23]
    for request in ({"fps": 2}, {"start": 1.0}, {"end": 2.0}):
        with pytest.raises(ValueError, match="pictures do not have: pass video_metadata"):
            read_video(video, FrameSampling(**request))


@pytest.mark.parametrize(
    "video, words",
    [
        (np.zeros((4, 3, 8, 8), np.uint8), r"\[frames, height, width, 3\].*permute\(0, 2, 3, 1\)"),
        (np.zeros((4, 8, 8, 3), np.float32), "uint8, got float32"),
        (torch.zeros(4, 8, 8, 3), "uint8, got float32"),
        (np.zeros((8, 8, 3), np.uint8), "got shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        ([], "no frames"),
        ([3, 4], "list holds PIL images"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_things_that_are_no_video(video, words):
    with pytest.raises(ValueError, match=words):
        read_video(video)


def test_folder_in_natural_order(tmp_path):
    for number in (2, 10, 1, 100, 20):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert numbers(tmp_path) == [1, 2, 10, 20, 100]
    (tmp_path / "frame3.png").write_bytes(b"broken")
    with pytest.raises(VideoDecodeError, match=r"frame3\.png.*not a picture"):
        numbers(tmp_path)
    assert numbers(str(tmp_path), allow_partial=True) == [1, 2, 10, 20, 100]


def test_folder_without_pictures(tmp_path):
    with pytest.raises(VideoDecodeError, match="folder without pictures"):
        read_video(tmp_path)


@pytest.fixture
def web(film):
    """Address of a web server that has film.mp4 and redirects /away/X to X."""
    folder = os.path.dirname(film("b_frames.mp4"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/away/"):
                self.send_response(302)
                self.send_header("Location", self.path[len("/away/") :])
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_address_only_when_allowed(web, film):
    address = f"{web}/b_frames.mp4"
    with pytest.raises(VideoDecodeError, match="allow_url=True"):
        read_video(address)
    with read_video(address, FrameSampling(num_frames=3), allow_url=True) as stream:
        downloaded = stream.metadata.source
        assert [number_in(frame) for _, frame in stream] == [0, 29, 59]
        assert os.path.exists(downloaded)
    assert not os.path.exists(downloaded)


def test_addresses_that_lead_elsewhere(web, film, monkeypatch):
    for address in (f"file://{film('b_frames.mp4')}", "ftp://127.0.0.1/x.mp4", "concat://x", "data://x"):
        with pytest.raises(VideoDecodeError, match=r"only http\(s\)"):
            read_video(address, allow_url=True)
    with pytest.raises(VideoDecodeError, match="cannot be downloaded"):
        read_video(f"{web}/away/file://{film('b_frames.mp4')}", allow_url=True)
    with pytest.raises(VideoDecodeError, match=r"cannot be downloaded.*404"):
        read_video(f"{web}/nothing.mp4", allow_url=True)
    monkeypatch.setattr(video_sources_videoxl, "MAX_URL_BYTES", 1000)
    with pytest.raises(VideoDecodeError, match="more than 1000 bytes"):
        read_video(f"{web}/b_frames.mp4", allow_url=True)


def test_name_that_ffmpeg_would_take_for_a_protocol(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoDecodeError, match="no such file"):
        read_video(f"concat:{film('b_frames.mp4')}")
    os.link(film("b_frames.mp4"), "concat:50%?#.mp4")
    assert numbers("concat:50%?#.mp4", FrameSampling(num_frames=2)) == [0, 59]


def test_decord_gives_the_same_frames(real_videos, film):
    for path in (str(real_videos / "b.mp4"), str(real_videos / "world.mp4"), film("b_frames.mp4")):
        with read_video(path, FrameSampling(num_frames=9)) as ours:
            expected = list(ours)
        with read_video(path, FrameSampling(num_frames=9), video_backend="decord") as theirs:
            came = list(theirs)
            assert theirs.metadata.video_backend == "decord"
        assert [seconds for seconds, _ in came] == [seconds for seconds, _ in expected]
        for (_, one), (_, other) in zip(came, expected):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["open_gop.mkv", "h264.ts", "av1.mp4"])
def test_decord_gives_way_where_it_errs(film, name, log_lines):
    truth = decode_plainly(film(name))
    with read_video(film(name), FrameSampling(num_frames=9), video_backend="decord") as stream:
        came = list(stream)
        assert stream.metadata.video_backend == "pyav"
    for index, (_, frame) in zip(stream.metadata.frames_indices, came):
        np.testing.assert_array_equal(frame, truth[index])
    assert "video_backend='decord' is not used" in log_lines.text and "reading with 'pyav'" in log_lines.text


def test_decord_gives_way_to_edit_lists(trimmed_film, log_lines):
    assert numbers(trimmed_film, FrameSampling(num_frames=3), video_backend="decord") == [17, 29, 41]
    assert "reading with 'pyav'" in log_lines.text


BROKEN = {
    "missing": "raise ImportError('No module named torchcodec')",
    "without its libraries": "raise RuntimeError('Could not load libtorchcodec. Likely causes:\\n 1. FFmpeg')",
    "for another torch": "raise OSError('libnvrtc.so.13: cannot open shared object file')",
}


@pytest.fixture(params=BROKEN)
def broken_torchcodec(request, tmp_path, monkeypatch):
    """An installation of torchcodec whose import fails; in what words."""
    code = BROKEN[request.param]
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(code + "\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    video_adapters_videoxl._torchcodec.cache_clear()
    yield code.split("'")[1].split("\\n")[0]
    video_adapters_videoxl._torchcodec.cache_clear()


def test_without_torchcodec_pyav_reads_and_says_nothing(film, broken_torchcodec, log_lines):
    with read_video(film("vp9.webm"), FrameSampling(num_frames=3)) as stream:
        assert [number_in(frame) for _, frame in stream] == [0, 29, 59]
        assert stream.metadata.video_backend == "pyav"
    assert not log_lines.text


def test_torchcodec_asked_for_and_not_there(film, broken_torchcodec):
    with pytest.raises(ImportError, match="pip install torchcodec") as caught:
        read_video(film("vp9.webm"), video_backend="torchcodec")
    assert broken_torchcodec in str(caught.value)


def test_unknown_backend(film):
    with pytest.raises(ValueError, match="'opencv' is unknown; supported are 'pyav', 'decord', 'torchcodec'"):
        read_video(film("b_frames.mp4"), video_backend="opencv")
