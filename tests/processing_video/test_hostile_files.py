"""Hostile files end in a right answer or a `VideoDecodeError`, each within 10 seconds, with the process alive."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hostile_files import make_hostile_files
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from video_files import cut_short, decode_plainly, number_in, write_video

from videoxl.processing.video_reading_videoxl import VideoDecodeError, read_video
from videoxl.processing.video_sampling_videoxl import FrameSampling


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every hostile file with the line that the reading process printed for it, and its pixels if it gave some."""
    folder = tmp_path_factory.mktemp("hostile")
    files = make_hostile_files(folder)
    results = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(Path(__file__).with_name("read_hostile.py")), str(results)]
    command += [str(hostile.path) for hostile in files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = files[len(lines)].path if len(lines) < len(files) else "none"
    assert done.returncode == 0, f"died with {done.returncode} at {last}: {done.stderr[-2000:]}"
    arrays = [np.load(path) if (path := results / f"{n}.npy").exists() else None for n in range(len(files))]
    return list(zip(files, lines, arrays))


def test_at_least_thirty(answers):
    assert len(answers) >= 30


def test_every_file_ends_as_it_must(answers):
    for hostile, line, _ in answers:
        if hostile.outcome == "error":
            assert "error" in line, f"{hostile.path.name} was read: {line}"
        if hostile.outcome == "right":
            assert "indices" in line, f"{hostile.path.name}: {line}"
        if "error" in line:
            assert line["error"].startswith(f"{hostile.path}: ")


def upright_frames(path):
    """A plain decode, turned by FFmpeg's own angle."""
    with av.open(str(path)) as container:
        return [np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90) for f in container.decode(video=0)]


def test_every_answer_is_right(answers):
    clip = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    for hostile, line, pixels in answers:
        if pixels is None:
            continue
        truth = upright_frames(hostile.truth)
        expected = np.linspace(0, len(truth) - 1, 6, dtype=int) if len(truth) > 6 else np.arange(len(truth))
        assert line["indices"] == expected.tolist(), hostile.path.name
        for index, values in zip(expected, pixels):
            frame = clip(truth[index], input_data_format="channels_last", return_tensors="np")["pixel_values"][0]
            np.testing.assert_allclose(values, frame, atol=1e-6, err_msg=f"{hostile.path.name} frame {index}")


CUT = {
    "mp4": ("libx264", {"movflags": "faststart"}),
    "mkv": ("libx264", {}),
    "avi": ("mpeg4", {}),
    "ts": ("libx264", {}),
}


@pytest.mark.parametrize("kind", CUT)
def test_what_can_be_read_of_a_cut_file(tmp_path, kind):
    codec, options = CUT[kind]
    container = "mpegts" if kind == "ts" else None
    whole = Path(write_video(tmp_path / f"w.{kind}", codec, container=container, container_options=options))
    truth = decode_plainly(whole)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(cut_short(whole.read_bytes(), 0.7))
    with pytest.raises(VideoDecodeError, match=r"frames, up to .* can be read: pass allow_partial=True"):
        read_video(cut, FrameSampling(num_frames=5))
    with read_video(cut, FrameSampling(every_frame=True), allow_partial=True) as stream:
        frames = [frame for _, frame in stream]
    assert 20 < len(frames) < 60 and len(frames) == len(stream.metadata.frames_indices)
    for frame, expected in zip(frames, truth):
        np.testing.assert_array_equal(frame, expected)
    with read_video(cut, FrameSampling(num_frames=5, end=0.4)) as stream:  # damage elsewhere does not matter
        assert [number_in(frame) for _, frame in stream] == [0, 2, 4, 6, 9]


def test_damage_in_the_middle(tmp_path):
    whole = Path(write_video(tmp_path / "whole.mp4"))
    truth = decode_plainly(whole)
    with av.open(str(whole)) as container:
        stored = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    for place in range(stored[30] + 12, stored[31]):
        data[place] ^= 0x5A
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with (
        pytest.raises(VideoDecodeError, match=r"damaged at 1\.\d+ s .*allow_partial=True"),
        read_video(path, FrameSampling(every_frame=True)) as stream,
    ):
        list(stream)
    with read_video(path, FrameSampling(every_frame=True), allow_partial=True) as stream:
        came = list(stream)
        kept = stream.metadata.frames_indices
    assert len(came) == len(kept) < 60 and set(range(28)) | set(range(36, 60)) <= set(kept)
    for index, (seconds, frame) in zip(kept, came):
        np.testing.assert_array_equal(frame, truth[index])
        assert seconds == pytest.approx(0.04 * index)
    for window in (FrameSampling(num_frames=4, end=0.9), FrameSampling(num_frames=4, start=1.6)):
        with read_video(path, window) as stream:
            assert len(list(stream)) == 4
