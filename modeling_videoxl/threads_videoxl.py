"""Threads for models so small that torch computes each operation on one core, and leaves others idle.

A GPU works behind the program's back without them, and so do the cores that torch shares an operation among.
"""

import contextlib
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

STEPS_BACK = 3  # of the 20 behind the usual priority


def cores_are_idle(device: torch.device | None) -> bool:
    """Whether what a model on `device` computes now may, and should, go on in threads of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    idle = device is not None and device.type == "cpu" and torch.get_num_threads() == 1 < cores
    # What a thread computes belongs to no other thread's graph, nor is it cast or compiled as there; and processes
    # that gather weights from each other must do so in one order.
    bound = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    bound = bound or (torch.distributed.is_available() and torch.distributed.is_initialized())
    return idle and not bound


def _step_back() -> None:
    """
    Has the calling thread, and those that it starts, let others go first where cores are few.

    Windows wait for each other, and what is done ahead of them does not: were all given the same, frames would be
    encoded as far ahead as they may, and the windows then be left alone on one core.
    """
    if sys.platform == "linux":  # elsewhere it would be the whole process
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + STEPS_BACK)


class _Thread:
    """One thread, whose work is done in order; to be closed, or used in a `with` statement."""

    def __init__(self, name: str):
        # A new thread would share operations among as many cores as the process began with, whatever was set since.
        threads = (torch.get_num_threads(),)
        self._pool = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=threads)

    def _start(self, work: Callable, *args: Any) -> Future:
        return self._pool.submit(self._done, torch.is_inference_mode_enabled(), work, *args)

    @staticmethod
    def _done(inference: bool, work: Callable, *args: Any) -> Any:
        with torch.inference_mode(inference), torch.no_grad():
            return work(*args)

    def close(self) -> None:
        """Waits for what is being done, and forgets the rest."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class VisionThread(_Thread):
    """Takes and encodes chunks while windows go through the language model."""

    AHEAD = 3  # chunks that are encoded, or being so, before one is asked for

    def __init__(self):
        super().__init__("vision")
        self._room = threading.Semaphore(self.AHEAD)
        self._stopped = False

    def features(self, chunks: Iterable, encode: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[torch.Tensor]:
        """
        Each chunk's visual tokens, in order; what taking or encoding one raised comes behind those before it. Work on
        the first ones begins now.
        """
        ready: queue.SimpleQueue = queue.SimpleQueue()
        work = self._start(self._encode_all, chunks, encode, ready)
        work.add_done_callback(ready.put)
        return self._taken(ready, work)

    def _taken(self, ready: queue.SimpleQueue, work: Future) -> Iterator[torch.Tensor]:
        while (features := ready.get()) is not work:
            self._room.release()
            yield features
        work.result()

    def _encode_all(self, chunks: Iterable, encode: Callable, ready: queue.SimpleQueue) -> None:
        _step_back()
        for chunk in chunks:
            self._room.acquire()
            if self._stopped:
                return
            ready.put(encode(chunk))

    def close(self) -> None:
        """Waits for the chunk that is being taken or encoded, and forgets the rest."""
        self._stopped = True
        self._room.release()
        super().close()


class LayerThread(_Thread):
    """
    Takes windows through the later layers while the earlier ones work on the next window.

    A window needs of the one before, in each layer, only what that layer kept of it: so what is computed is the same.
    """

    AHEAD = 1  # windows that may wait for the later layers

    def __init__(self):
        super().__init__("layers")
        self._working: deque[Future] = deque()

    def take_on(self, work: Callable[[], None]) -> None:
        """Has `work` done behind what was taken on before. An error in that is raised here, or by `wait`."""
        while len(self._working) > self.AHEAD:
            self._working.popleft().result()
        self._working.append(self._start(work))

    def wait(self) -> None:
        """Until nothing is under way."""
        while self._working:
            self._working.popleft().result()
