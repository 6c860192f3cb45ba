"""The pipeline, watched while it works: reading, compressing, answering word by word."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from queue import SimpleQueue
from typing import Any

from transformers import TextStreamer


@dataclass(frozen=True)
class Progress:
    """How far one request has come. `answers` grows; `memory`, the pipeline's, is there at the end."""

    status: str
    answers: list[str] = field(default_factory=list)  # of the first questions; the last one may be unfinished
    memory: dict[str, Any] | None = None


class Mark(Enum):
    """What comes out of [`AnswerStreamer`] between the texts."""

    ANSWER_BEGINS = 1
    ALL_DONE = 2


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


class AnswerStreamer(TextStreamer):
    """
    Hands over to another thread what is written in one: `pieces` holds a mark and texts for every answer in turn.

    (The library's iterator over texts ends with every answer, and is silent about the prompt, which is the first
    sign of life after the video was compressed.)
    """

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces: SimpleQueue[str | Mark] = SimpleQueue()
        self._abandoned = False

    def put(self, value: Any) -> None:
        if self._abandoned:
            raise AbandonedError
        if self.next_tokens_are_prompt:
            self.pieces.put(Mark.ANSWER_BEGINS)
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.pieces.put(text)

    def abandon(self) -> None:
        """Makes the writer stop at its next token."""
        self._abandoned = True


def answer_stream(
    pipe: Any,
    video: str,
    questions: Sequence[str],
    *,
    num_frames: int,
    compression_ratio: int,
    allow_partial: bool = False,
) -> Iterator[Progress]:
    """
    Answers all questions from one compression of the video.

    Closing the generator stops the work: within a token, or when the compression that is under way is finished.

    Args:
        pipe: the pipeline; its three steps are called one by one, which tells where the work stands.
        video: path of the file.
        questions: at least one.
        num_frames, compression_ratio, allow_partial: as in a call of the pipeline.

    Yields:
        `Progress`: each one's `answers` begin with those of the one before; the last one's are the pipeline's own.

    Raises:
        ValueError: naming the input that cannot be used (`VideoDecodeError`, a kind of it, for unreadable videos).
    """
    yield Progress(f"Reading {num_frames} frames …")
    inputs = {"video": video, "question": list(questions)}
    read = pipe.preprocess(inputs, num_frames=num_frames, allow_partial=allow_partial)
    film = read["request"].visuals["pixel_values_videos"][0]
    yield Progress(f"Reading {_span(film)}, compressing them …")
    streamer, answers = AnswerStreamer(pipe.tokenizer), []
    with ThreadPoolExecutor(max_workers=1) as executor:
        arguments = {"compression_ratio": compression_ratio, "generate_kwargs": {"streamer": streamer}}
        work = executor.submit(pipe.forward, read, **arguments)
        work.add_done_callback(lambda _: streamer.pieces.put(Mark.ALL_DONE))  # also after an error
        try:
            for piece in iter(streamer.pieces.get, Mark.ALL_DONE):
                if piece is Mark.ANSWER_BEGINS:
                    answers.append("")
                else:
                    answers[-1] += piece
                status = f"{_span(film)} read. Answering {len(answers)} of {len(questions)} …"
                yield Progress(status, list(answers))
        finally:
            streamer.abandon()
        records = pipe.postprocess(work.result(), return_memory=True, return_seconds=True)
    answers = [record["answer"] for record in records]
    yield Progress(f"{_span(film)} read. {_seconds(records)}", answers, records[0]["memory"])


def _span(film: Any) -> str:
    times = film.metadata.timestamps
    return f"{len(times)} frames, {clock(times[0])} to {clock(times[-1])}"


def clock(seconds: float) -> str:
    """`75.4` as `1:15`, `3675` as `1:01:15`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _seconds(records: Sequence[dict]) -> str:
    last = records[-1]["seconds"]
    answering = sum(record["seconds"]["answer"] for record in records)
    return (
        f"Waited {last['read']:.1f} s for frames, compressed in {last['compress']:.1f} s, answered in "
        f"{answering:.1f} s."
    )
