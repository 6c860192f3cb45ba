"""Functions in processes of their own, each on its share of the cores; those started together are one training run."""

import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

HERE = "127.0.0.1"


def run_together(count: int, function: Callable[..., Any], *given: Any) -> None:
    """
    Calls `function(*given)` in processes that see each other as torch's launcher would have it, and waits for them.

    Args:
        count: of processes; the cores are shared among them.
        function, given: found by name, and pickled.

    Raises:
        ProcessRaisedException: if one of them failed; the others are ended.
        KeyboardInterrupt: after Ctrl-C, when they have ended: they were told, too.
    """
    threads = max(1, torch.get_num_threads() // count)
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    started = multiprocessing.spawn(_work, (count, port, threads, function, given), nprocs=count, join=False)
    try:
        while not started.join():
            pass
    finally:
        _wait(started.processes)


@contextlib.contextmanager
def beside(function: Callable[..., Any], *given: Any) -> Iterator[Callable[[], bool]]:
    """
    Calls `function(*given)` in a process of its own while the block runs, each of the two on half of the cores. It
    ends with the block, done or not.

    Yields:
        a function that tells whether it still runs, and takes its cores when it does not.

    Raises:
        ProcessRaisedException: at the block's end, if it had failed by then.
    """
    cores = torch.get_num_threads()
    half = max(1, cores // 2)
    started = multiprocessing.spawn(_work, (1, 0, half, function, given), nprocs=1, join=False)
    process = started.processes[0]
    torch.set_num_threads(half)

    def runs() -> bool:
        if process.is_alive():
            return True
        torch.set_num_threads(cores)
        return False

    try:
        yield runs
        if not process.is_alive():
            started.join()
    finally:
        process.terminate()
        _wait(started.processes)
        torch.set_num_threads(cores)


def _wait(processes: list) -> None:
    for process in processes:
        process.join()


def _work(rank: int, count: int, port: int, threads: int, function: Callable[..., Any], given: tuple) -> None:
    torch.set_num_threads(threads)
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        place |= {"MASTER_ADDR": HERE, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
    function(*given)
    if dist.is_initialized():
        gc.collect()  # a model that is still tied to the group has its threads abort the process at its end
        dist.barrier()
        dist.destroy_process_group()
