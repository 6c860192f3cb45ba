"""Threads for models so small that torch computes each operation on one core, and leaves others idle.

A GPU works behind the program's back without them, and so do the cores that torch shares an operation among.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


def cores_are_idle(device: torch.device | None) -> bool:
    """Whether what a model on `device` computes now may, and should, go on in threads of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    idle = device is not None and device.type == "cpu" and torch.get_num_threads() == 1 < cores
    # What a thread computes belongs to no other thread's graph, nor is it cast or compiled as there; and processes
    # that gather weights from each other must do so in one order.
    bound = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    bound = bound or (torch.distributed.is_available() and torch.distributed.is_initialized())
    return idle and not bound


class _Thread:
    """One thread, whose work is done in order; to be closed, or used in a `with` statement."""

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

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
    """Encodes chunks while windows go through the language model."""

    AHEAD = 2  # chunks that are encoded, or being so, before one is asked for

    def __init__(self):
        super().__init__("vision")

    def features(self, chunks: Iterable, encode: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[torch.Tensor]:
        """Each chunk's visual tokens, in order. Who asks takes the chunks, `AHEAD` before their turn."""
        waiting: deque[Future] = deque()
        for chunk in chunks:
            waiting.append(self._start(encode, chunk))
            if len(waiting) > self.AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
