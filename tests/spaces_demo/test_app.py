"""The app, asked as a browser asks it: through its server."""

import itertools

import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError

from videoxl.spaces_demo.app import error_box, split_questions

QUESTION = "What happens in this video?"
# A choice has lines of its own, and what looks like HTML or a special token is text.
QUESTIONS = [QUESTION, "Is it <b>night</b>? <|im_end|> <video>\n(A) yes\n(B) no"]


@pytest.fixture(scope="module")
def ask(client):
    """All states that the server streams for one request, each the four outputs."""

    def ask(video, question, frames=20, ratio=4, partial=False):
        video = handle_file(video) if isinstance(video, str) else video
        job = client.submit(video, question, frames, ratio, partial, api_name="/ask")
        job.result()
        return job.outputs()

    return ask


def table_of(kept) -> list[int]:
    return [row[1] for row in kept["data"]]


@pytest.mark.parametrize("ratio", [0, 4])
def test_streams_the_pipelines_answer_and_what_was_kept(ask, pipe, film, ratio):
    expected = pipe(video=film, question=QUESTION, num_frames=20, compression_ratio=ratio, return_memory=True)
    states = ask(film, QUESTION, ratio=ratio)
    status, answer, words, kept = states[-1]
    assert answer == expected["answer"]
    assert words == expected["memory"]["text"]
    numbers = expected["memory"]["kept"]
    assert table_of(kept) == [numbers[kind] for kind in ("beacons", "visual", "sink", "text", "total")]
    assert "20 frames, 0:00 to 0:30 read." in status
    streamed = [state[1] for state in states]
    assert streamed[0] == ""
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(streamed))
    assert len(set(streamed)) > 3
    assert all(state[2] == "" for state in states[:-1])


def test_stages_come_in_order(ask, film):
    words = ["Reading 20 frames …", "compressing them", "Answering 1 of 2", "Answering 2 of 2", "answered in"]
    seen = [next(word for word in words if word in state[0]) for state in ask(film, "\n\n".join(QUESTIONS))]
    assert [word for word, _ in itertools.groupby(seen)] == words


def test_several_questions_are_answered_from_one_compression(ask, pipe, film):
    expected = pipe(video=film, question=QUESTIONS, num_frames=20, compression_ratio=4, return_memory=True)
    states = ask(film, "\n \n".join(QUESTIONS) + "\n\n")
    blocks = [f"{question}\n→ {record['answer']}" for question, record in zip(QUESTIONS, expected)]
    assert states[-1][1] == "\n\n".join(blocks)
    assert states[-1][2] == expected[0]["memory"]["text"]
    assert all(later[1].startswith(earlier[1]) for earlier, later in itertools.pairwise(states))


def test_damaged_file_is_read_as_far_as_possible_when_asked(ask, pipe, cut_film):
    with pytest.raises(AppError, match=r"^cut\.mp4: .*333 frames, .*allow_partial=True"):
        ask(cut_film, QUESTION)
    expected = pipe(video=cut_film, question=QUESTION, num_frames=20, compression_ratio=4, allow_partial=True)
    states = ask(cut_film, QUESTION, partial=True)
    assert states[-1][1] == expected["answer"]
    read = pipe.processor.video_processor(cut_film, num_frames=20, allow_partial=True)["pixel_values_videos"][0]
    assert states[-1][0].startswith(f"{len(read)} frames, 0:00 to 0:1")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", r"the file is empty"),
        (b"no video at all\n" * 100, r"not a video file"),
        (bytes(range(256)) * 40, r"not a video file"),
    ],
)
def test_hostile_file_gives_a_clear_error_and_the_server_lives_on(ask, tmp_path, film, pipe, content, said):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(AppError, match=rf"^bad\.mp4: {said}"):  # no folder of the server's before the name
        ask(str(path), QUESTION)
    expected = pipe(video=film, question=QUESTION, num_frames=2, compression_ratio=2)["answer"]
    assert ask(film, QUESTION, frames=2, ratio=2)[-1][1] == expected


def test_error_stays_in_the_progress_box(client, tmp_path):
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no video at all\n" * 100)
    job = client.submit(handle_file(str(path)), QUESTION, 20, 4, False, api_name="/ask")
    assert "not a video file" in str(job.exception())
    assert "bad.mp4: not a video file" in job.outputs()[-1][0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"video": None}, "Upload a video first"),
        ({"question": " \n\n "}, "Write a question first"),
        ({"question": "Why?\n\n" * 9}, "9 questions: ask at most 8"),
        ({"question": "y" * 2001}, "A question of 2001 characters: at most 2000"),
        ({"frames": 0}, "0"),
        ({"frames": 513}, "513"),
        ({"ratio": 3}, "not in the list of choices"),
        ({"video": {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}}, "hostname"),
    ],
)
def test_what_cannot_be_asked_is_said(ask, film, arguments, said):
    with pytest.raises(AppError, match=said):
        ask(**{"video": film, "question": QUESTION, **arguments})


def test_error_box_shows_html_as_text():
    assert error_box("<img src=x>.mp4: it's & no video").message == "&lt;img src=x&gt;.mp4: it's &amp; no video"


def test_empty_lines_separate_questions():
    assert split_questions("\n\n Who?\r\n\t\nWhich?\n(A) x\n\n\n(B) y ") == ["Who?", "Which?\n(A) x", "(B) y"]
