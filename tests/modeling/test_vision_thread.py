"""Vision in a thread of its own, ahead of the windows: the same answers, and no thread that stays behind."""

import os
import threading

import pytest
import torch


@pytest.fixture
def one_core_an_operation(monkeypatch):
    """torch computes on one core, and there is a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen_in(small):
    """Names of the threads that the vision tower worked in, one for each chunk."""
    names = []
    small.model.model.vision_tower.pre_layrnorm.register_forward_hook(
        lambda *_: names.append(threading.current_thread().name)
    )
    return names


def is_apart(name):
    return name.startswith("vision")


def threads_left():
    return [thread.name for thread in threading.enumerate() if is_apart(thread.name)]


def test_the_same_logits_from_another_thread(small, film, seen_in, one_core_an_operation):
    ids, pixels = film
    ours = small.logits(ids, pixel_values_videos=[pixels])
    assert len(seen_in) > 1 and all(map(is_apart, seen_in)) and not threads_left()
    given = {"video": [torch.cat([small.features(part) for part in pixels.split(small.config.vision_chunk_size)])]}
    assert torch.equal(ours, small.logits(ids, mm_encoder_outputs=given))


def test_the_same_answers_of_ragged_rows(small, film, seen_in, one_core_an_operation):
    ids, pixels = film
    short = small.text(len(ids) - 20) + [small.video] * 12 + small.text(8)
    rows = small.generate([ids, short], pixel_values_videos=[pixels, pixels[:3]])
    assert seen_in and all(map(is_apart, seen_in)) and not threads_left()
    assert rows == [
        small.generate(ids, pixel_values_videos=[pixels]),
        small.generate(short, pixel_values_videos=[pixels[:3]]),
    ]


@pytest.mark.parametrize("threads, grad", [(2, False), (1, True)])
def test_stays_at_home_where_all_cores_work_and_where_graphs_are_kept(
    small, film, seen_in, one_core_an_operation, threads, grad
):
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(grad):
        small.model(torch.tensor([film[0]]), pixel_values_videos=[film[1]])
    assert seen_in and not any(map(is_apart, seen_in))


def test_a_live_film_is_never_waited_for_before_its_turn(small, seen_in, one_core_an_operation):
    """Each window is done before the frames behind it are asked for."""
    frames, windows, asked = small.frames(37), [], []

    def live():
        for chunk in frames.split(4):  # of 16 visual tokens, a third of a window
            asked.append(len(windows))
            yield chunk

    small.model.prefill_video(torch.tensor([small.text(5)]), live(), on_window=windows.append)
    assert not any(map(is_apart, seen_in))
    assert asked == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]  # one chunk more than a window, to know whether it is the last


class Film:
    """As a streamed video is to the model: levels in pieces; `fails` after so many of them."""

    def __init__(self, frames, fails=None):
        self.frames, self.fails, self.closed = frames, fails, False
        self.metadata = type("Metadata", (), {"frames_indices": list(range(len(frames)))})

    def __len__(self):
        return len(self.frames)

    def split(self, count):
        try:
            for number, piece in enumerate(self.frames.split(count)):
                if number == self.fails:
                    raise OSError("the disc is gone")
                yield piece
        finally:
            self.closed = True

    def pixel_values(self, piece):
        return piece


def test_a_film_that_is_read_meanwhile(small, film, seen_in, one_core_an_operation):
    ids, pixels = film
    prefix = torch.tensor([ids[:9]])
    caches = [small.model.prefill_video(prefix, Film(pixels)), small.model.prefill_video(prefix, iter([pixels]))]
    assert {is_apart(name) for name in seen_in} == {True, False}
    ours, plain = (small.generate(ids, past_key_values=cache) for cache in caches)
    assert ours == plain


def test_a_film_that_breaks_off_ends_the_thread(small, seen_in, one_core_an_operation):
    film = Film(small.frames(80), fails=3)
    with pytest.raises(OSError, match="the disc is gone"):
        small.model.prefill_video(torch.tensor([[1, 2]]), film)
    assert film.closed and all(map(is_apart, seen_in)) and not threads_left()


def test_an_error_of_vision_comes_out_where_its_window_is(small, film, one_core_an_operation):
    ids, pixels = film
    tower = small.model.model.vision_tower
    chunks = []

    def breaks(*_):
        chunks.append(1)
        if len(chunks) == 2:
            raise RuntimeError("out of something")

    tower.pre_layrnorm.register_forward_hook(breaks)
    with pytest.raises(RuntimeError, match="out of something"):
        small.generate(ids, pixel_values_videos=[pixels])
    assert not threads_left()
