"""Training on several processes: the same passes on all of them, where weights are gathered pass by pass."""

from itertools import zip_longest

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


def longest_rounds(own: list[list[int]]) -> list[list[int]]:
    """
    The schedule into which the rounds of all processes fit; every process must call this at the same time.

    Args:
        own: for each text pass of this process, for each window behind it, the chunks that are encoded for it.
    """
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return [
        [max(chunks) for chunks in zip_longest(*windows, fillvalue=0)]
        for windows in zip_longest(*gathered, fillvalue=())
    ]


def equalize_passes(model: nn.Module) -> None:
    """
    Has every call of `model`, in training and evaluation, run as many passes on each process as on the one with most;
    those that a process has nothing for count zero times. Without it, gathering weights dead-locks.
    """
    for module in model.modules():
        if hasattr(module, "agree_on_rounds"):
            module.agree_on_rounds = longest_rounds


def must_keep_step(accelerator: Accelerator) -> bool:
    """
    Whether processes wait for each other pass by pass: where layers' weights lie spread over them and are gathered
    whenever a layer runs, and under DeepSpeed in any case, which sums gradients up in the order in which they come.
    """
    if accelerator.num_processes == 1:
        return False
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage > 0
    return accelerator.distributed_type == DistributedType.FSDP
