"""Vision and later layers in threads of their own: the same answers, and no thread that stays behind."""

import os
import sys
import threading

import pytest
import torch

from videoxl.modeling_videoxl.threads_videoxl import VisionThread


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


@pytest.fixture
def layers_in(small):
    """By layer, the names of the threads that its passes were computed in."""
    layers = small.model.model.language_model.layers
    names = [[] for _ in layers]
    for seen, layer in zip(names, layers):
        layer.input_layernorm.register_forward_hook(
            lambda *_, seen=seen: seen.append(threading.current_thread().name.split("_")[0])
        )
    return names


def is_apart(name):
    return name.startswith("vision")


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("vision", "layers"))]


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


def test_what_came_before_an_error_is_handed_out_and_nobody_runs_far_ahead():
    asked, priorities = [], []

    def chunks():
        for number in range(50):
            asked.append(number)
            if number == 9:
                raise OSError("the disc is gone")
            yield torch.tensor([number])

    def encode(chunk):
        if sys.platform == "linux":
            priorities.append(os.getpriority(os.PRIO_PROCESS, 0))
        return chunk + 100

    taken = []
    with VisionThread() as thread, pytest.raises(OSError, match="the disc is gone"):
        for features in thread.features(chunks(), encode):
            # Encoded ahead, asked for behind that, and the one that is looked at.
            assert len(asked) <= len(taken) + VisionThread.AHEAD + 2
            taken.append(int(features))
    assert taken == [*range(100, 109)] and not threads_left()
    if sys.platform == "linux":  # the windows' thread goes before it
        assert all(priority > os.getpriority(os.PRIO_PROCESS, 0) for priority in priorities)


def test_who_stops_listening_ends_the_thread():
    asked = []
    with VisionThread() as thread:
        chunks = (asked.append(number) or torch.tensor([number]) for number in range(1000))
        assert int(next(thread.features(chunks, torch.neg))) == 0
    assert len(asked) <= VisionThread.AHEAD + 3 and not threads_left()


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


def assert_same_entries(ours, plain):
    for layer, other in zip(ours.layers, plain.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
    assert ours.summary() == plain.summary()


def test_two_windows_at_a_time_keep_what_one_by_one_keep(small, film, layers_in, one_core_an_operation):
    ids, pixels = film
    prefix, half = torch.tensor([ids[:9]]), (len(layers_in) - 1) // 2
    ours = small.model.prefill_video(prefix, Film(pixels), 4)
    assert 0 < half < len(layers_in) and not threads_left()
    for index, names in enumerate(layers_in):
        assert names == ["MainThread"] + 4 * ["layers" if index >= half else "MainThread"]
        names.clear()
    plain = small.model.prefill_video(prefix, iter([pixels]), 4)
    assert all(set(names) == {"MainThread"} for names in layers_in)
    assert_same_entries(ours, plain)


def test_two_windows_at_a_time_of_ragged_rows_and_mixed_ratios(small, film, layers_in, one_core_an_operation):
    ids, pixels = film
    rows = [ids, small.text(len(ids) - 56) + [small.video] * 52 + small.text(4)]
    given = {"pixel_values_videos": [pixels, pixels[:13]], "compression_ratio": 4}
    ours = [small.generate(rows, **given)]
    ours.append(small.generate(ids, pixel_values_videos=[pixels], compression_ratio=[2, 0, 16, 4]))
    assert "layers" in layers_in[-1] and not threads_left()
    torch.set_num_threads(2)
    assert ours[0] == small.generate(rows, **given)
    assert ours[1] == small.generate(ids, pixel_values_videos=[pixels], compression_ratio=[2, 0, 16, 4])


def test_who_looks_at_the_memory_between_windows_sees_whole_ones(small, film, layers_in, one_core_an_operation):
    ids, pixels = film
    prefix, seen = torch.tensor([ids[:9]]), {True: [], False: []}
    for apart, chunks in ((True, Film(pixels)), (False, iter([pixels]))):
        small.model.prefill_video(
            prefix, chunks, 8, on_window=lambda cache, apart=apart: seen[apart].append(cache.copy())
        )
    assert "layers" in layers_in[-1] and len(seen[True]) == 4
    for ours, plain in zip(seen[True], seen[False], strict=True):
        assert_same_entries(ours, plain)


def test_an_error_of_a_later_layer_loses_nothing(small, film, one_core_an_operation):
    ids, pixels = film
    memory = small.model.prefill_video(torch.tensor([ids[:9]]), Film(pixels))
    expected = small.generate([*ids, 5, 6, 7], past_key_values=memory.copy())
    passes = []

    def breaks(*_):
        passes.append(threading.current_thread().name)
        if len(passes) == 2:
            raise RuntimeError("out of something")

    hook = small.model.model.language_model.layers[-1].input_layernorm.register_forward_hook(breaks)
    more = [*ids[9:157], *ids[157:]]
    with pytest.raises(RuntimeError, match="out of something"):
        small.generate([*ids[:157], *more], past_key_values=memory, pixel_values_videos=[pixels])
    hook.remove()
    assert passes[1].startswith("layers") and not threads_left()
    assert small.generate([*ids, 5, 6, 7], past_key_values=memory) == expected
