"""Frames decoded ahead, in threads of their own, while somebody works on those before."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Frames of one part that wait to be taken: what is decoded ahead is bounded, however long the video.
AHEAD = 8
_END = object()


class ReadingStoppedError(Exception):
    """Nobody waits for the frames any more."""


@dataclass
class _Failure:
    """What a thread ended with, to be raised where the frames are taken."""

    error: BaseException


@dataclass
class _Part:
    """A run of frames that one thread reads, and those of them that are there already."""

    indices: list[int]
    ready: queue.Queue = field(default_factory=lambda: queue.Queue(AHEAD))


def frames_ahead(
    reader,
    indices: Sequence[int],
    allow_partial: bool,
    transform: Callable[[np.ndarray], Any],
    threads: int,
    fit: Callable[[int, int], tuple[int, int]] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields (index, transformed frame) for ascending distinct indices, decoded and transformed ahead.

    Where the video can be entered at several places, several threads read parts of it, each with a decoder of its own;
    else one thread does, whose decoder may use several. The threads end before this iterator does, by an error and
    by Ctrl-C as well.

    Args:
        reader: with `parts`, `clone`, `frames` and `close` as `PyAVReader` has them.
        transform: uint8 [H, W, 3] -> anything; called in the threads.
        threads: at most.
        fit: see `PyAVReader.clone`.

    Raises:
        Exception: what reading a frame or `transform` raised, once the frames before it were taken.
    """
    parts = [_Part(run) for run in reader.parts(indices)]
    count = min(threads, len(parts))
    stop = threading.Event()
    readers = [reader.clone(max(1, threads // count), stop, fit) for _ in range(count)]
    waiting, lock = iter(parts), threading.Lock()

    def work(own) -> None:
        while not stop.is_set():
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            _read_part(own, part, allow_partial, transform, stop)

    workers = [threading.Thread(target=work, args=(own,), name="videoxl-reading", daemon=True) for own in readers]
    try:
        for worker in workers:
            worker.start()
        for part in parts:
            while (item := part.ready.get()) is not _END:
                if isinstance(item, _Failure):
                    raise item.error
                yield item
    finally:
        stop.set()
        for part in parts:
            _empty(part.ready)  # a thread that waits to put its frame can go on, and sees that it should end
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        for own in readers:
            if own is not reader:
                own.close()


def _read_part(reader, part: _Part, allow_partial: bool, transform: Callable, stop: threading.Event) -> None:
    try:
        with contextlib.closing(reader.frames(part.indices, allow_partial)) as frames:
            for index, frame in frames:
                part.ready.put((index, transform(frame)))
                if stop.is_set():
                    return
        part.ready.put(_END)
    except ReadingStoppedError:
        return
    except BaseException as error:
        part.ready.put(_Failure(error))


def _empty(waiting: queue.Queue) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            waiting.get_nowait()
