"""Films that are read while the model works on them, against films that were read before."""

import io
import threading

import av
import numpy as np
import pytest
import torch
from transformers.utils import logging

from videoxl import VideoDecodeError


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "videoxl-reading"]


def write_film(path, frames):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames.numpy():
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return str(path)


@pytest.fixture(scope="module")
def film_file(film, tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "film.mkv", film)


@pytest.mark.parametrize("ratio", [0, 8, [2, 4, 8, 16]])
def test_file_array_and_generator_are_answered_alike(pipe, film, film_file, arguments, ratio):
    settings = {"compression_ratio": ratio, "return_memory": True, **arguments}
    wanted = pipe(video=film, question="Why?", do_sample_frames=False, stream=False, **settings)
    everything = {"do_sample_frames": False}
    for video, sampling in ((film, everything), (film_file, everything), (iter(film.numpy()), {})):
        given = pipe(video=video, question=["Why?", "Why?"], **sampling, **settings)
        for answer in given:
            assert answer["answer"] == wanted["answer"]
            assert answer["memory"]["kept"] == wanted["memory"]["kept"]
    assert not reading_threads()


def test_generate_takes_streams(pipe, film, film_file, arguments):
    """Two films in one prompt, and beams: pieces are asked for by windows, not by `prefill_video`."""
    content = [{"type": "video", "video": film_file}, {"type": "text", "text": "and"}]
    content += [{"type": "video", "video": film.numpy()}, {"type": "text", "text": "?"}]
    inputs = [
        pipe.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            processor_kwargs={"do_sample_frames": False, "stream": stream},
        )
        for stream in (False, True)
    ]
    assert torch.equal(inputs[0]["input_ids"], inputs[1]["input_ids"])
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}
        whole, streamed = (pipe.model.generate(**one, **settings) for one in inputs)
        assert torch.equal(whole, streamed)
    assert not reading_threads()


def test_goldens_on_a_stream(pipe, goldens):
    films = [case for case in goldens if "video" in case]
    for case in films:
        result = pipe(
            video=iter(np.asarray(case["video"])),
            question=case["question"],
            compression_ratio=case["ratio"],
            max_new_tokens=8,
            eos_token_id=499,
        )
        assert result["answer"] == pipe.tokenizer.decode(case["tokens"], skip_special_tokens=True)
    assert films


def test_the_model_sees_frames_before_the_last_one_is_read(pipe, film):
    taken, seen = [], []

    def frames():
        for number, frame in enumerate(film.numpy()):
            taken.append(number)
            yield frame

    streamed = pipe.processor.video_processor.stream_video(frames())
    pipe.model.prefill_video(torch.tensor([[1, 2]]), streamed, 8, on_window=lambda cache: seen.append(len(taken)))
    assert seen[0] < len(film) == seen[-1]


class StopHere(BaseException):
    """As Ctrl-C, in the middle."""


def test_what_stops_the_model_ends_the_threads(pipe, film, tmp_path):
    path = write_film(tmp_path / "long.mkv", film.repeat(6, 1, 1, 1))  # more than four threads read ahead

    def stop(cache):
        assert reading_threads()
        raise StopHere

    streamed = pipe.processor.video_processor.stream_video(path, do_sample_frames=False)
    streamed_too = pipe.processor.video_processor.stream_video(path, do_sample_frames=False)
    with pytest.raises(StopHere):
        pipe.model.prefill_video(torch.tensor([[1, 2]]), streamed, 8, on_window=stop)
    assert not reading_threads()
    with pytest.raises(ValueError, match="ratios"):
        pipe.model.prefill_video(torch.tensor([[1, 2]]), streamed_too, [8])
    assert not reading_threads()


def test_a_film_that_breaks_off_ends_with_its_error(pipe, film):
    def frames():
        yield from film.numpy()[:9]
        raise VideoDecodeError("the camera is gone")

    with pytest.raises(VideoDecodeError, match="camera"):
        pipe(video=frames(), question="Why?")


def test_frames_that_do_not_come_are_told(pipe):
    """Where placeholders were counted before, a film that turns out shorter is an error that says so."""

    size = pipe.model.config.vision_config.image_size

    class Shorter:
        def __len__(self):
            return 40

        def split(self, count):
            yield from torch.zeros(20, 3, size, size, dtype=torch.uint8).split(count)

        def pixel_values(self, piece):
            return piece.float()

    ids = torch.full((1, 40 * pipe.processor.tokens_per_frame + 2), pipe.processor.video_token_id)
    ids[:, 0] = ids[:, -1] = 1
    with pytest.raises(ValueError, match="fewer"):
        pipe.model(input_ids=ids, pixel_values_videos=[Shorter()])


def test_a_bar_counts_the_frames(pipe, film, monkeypatch):
    from videoxl.pipelines import watching_videoxl

    written = io.StringIO()
    monkeypatch.setattr(watching_videoxl, "PATIENCE", 0)
    monkeypatch.setattr(watching_videoxl, "RHYTHM", 0)
    monkeypatch.setattr("sys.stderr", written)
    logging.enable_progress_bar()
    pipe(video=film, question="Why?", do_sample_frames=False, max_new_tokens=2)
    assert "/40" in written.getvalue() and "frame" in written.getvalue()
    assert "kept" in written.getvalue() and "read" in written.getvalue()


def test_a_bar_is_drawn_anew_in_its_rhythm_however_fast_windows_come(pipe, monkeypatch):
    from videoxl.pipelines import watching_videoxl

    clock, drawn = [0.0], []

    class Bar:
        def set_postfix(self, told, refresh):
            drawn.extend([clock[0]] * refresh)

    monkeypatch.setattr(watching_videoxl.time, "perf_counter", lambda: clock[0])
    watched = watching_videoxl._WatchedVideo(torch.zeros(1), None, Bar())
    cache = pipe.model.new_cache()
    for step in range(400):  # a window every hundredth of a second, for four seconds
        clock[0] = step / 100
        watched.show_kept(cache)
    assert drawn[0] == pytest.approx(watching_videoxl.PATIENCE)
    assert 15 <= len(drawn) <= 21
