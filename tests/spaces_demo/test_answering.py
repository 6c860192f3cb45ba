"""The watched pipeline, without a server."""

import threading

import pytest

from videoxl.spaces_demo.answering import answer_stream, clock

SETTINGS = {"num_frames": 4, "compression_ratio": 2}
QUESTIONS = ["What happens?", "Who is there?", "What comes then?"]


@pytest.fixture
def passes(pipe):
    """Counts the model's passes."""
    count = []
    handle = pipe.model.register_forward_hook(lambda *_: count.append(1))
    yield count
    handle.remove()


def test_closing_ends_the_work(pipe, film, passes):
    threads = threading.active_count()
    *_, last = answer_stream(pipe, film, QUESTIONS, **SETTINGS)
    whole = len(passes)
    stream = answer_stream(pipe, film, QUESTIONS, **SETTINGS)
    assert any(progress.answers for progress in stream)  # the first question's answer has begun
    stream.close()
    assert len(passes) - whole < whole
    assert threading.active_count() == threads
    *_, again = answer_stream(pipe, film, QUESTIONS, **SETTINGS)
    assert (again.answers, again.memory) == (last.answers, last.memory)


def test_error_of_the_model_comes_out(pipe, film):
    with pytest.raises(ValueError, match="a window has 48 visual tokens"):
        list(answer_stream(pipe, film, QUESTIONS, num_frames=2, compression_ratio=49))


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (75.9, "1:15"), (3675, "1:01:15")])
def test_clock(seconds, text):
    assert clock(seconds) == text
