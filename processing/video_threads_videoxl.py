"""Frames decoded ahead, in threads of their own, while somebody works on those before."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Frames of one thread that wait to be taken: what is decoded ahead is bounded, however long the video. Twice what the
#: vision tower takes at once, so that the thread has something to do while the model works on that.
AHEAD = 32
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
    ready: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    room: threading.Semaphore | None = None  # of its thread: for frames that it may still decode ahead


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
    # A thread's parts are taken in the order in which it reads them, so that none waits for room that only frames
    # behind its own can make.
    rooms = [threading.Semaphore(AHEAD) for _ in range(count)]
    waiting, lock = iter(parts), threading.Lock()

    def work(own, room: threading.Semaphore) -> None:
        while not stop.is_set():
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            part.room = room
            _read_part(own, part, allow_partial, transform, stop)

    workers = [
        threading.Thread(target=work, args=each, name="videoxl-reading", daemon=True) for each in zip(readers, rooms)
    ]
    try:
        for worker in workers:
            worker.start()
        for part in parts:
            while (item := part.ready.get()) is not _END:
                if isinstance(item, _Failure):
                    raise item.error
                part.room.release()
                yield item
    finally:
        stop.set()
        for room in rooms:
            room.release()  # a thread that waits for it goes on, and sees that it should end
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
                item = index, transform(frame)
                part.room.acquire()
                if stop.is_set():
                    return
                part.ready.put(item)
        part.ready.put(_END)
    except ReadingStoppedError:
        return
    except BaseException as error:
        part.ready.put(_Failure(error))
