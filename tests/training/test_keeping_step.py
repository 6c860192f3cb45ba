"""Which kinds of distributed training need the same passes on all processes."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from videoxl.training.distributed import must_keep_step


@pytest.mark.parametrize(
    "kind, stage, processes, expected",
    [
        (DistributedType.DEEPSPEED, 3, 2, True),
        # It sums gradients up in the order in which they come: with films of one window here and of five there, two
        # processes under stage 2 ended in a collective mismatch.
        (DistributedType.DEEPSPEED, 2, 2, True),
        (DistributedType.DEEPSPEED, 0, 2, False),
        (DistributedType.DEEPSPEED, 3, 1, False),
        (DistributedType.FSDP, None, 2, True),
        (DistributedType.MULTI_CPU, None, 2, False),
        (DistributedType.NO, None, 1, False),
    ],
)
def test_who_keeps_step(kind, stage, processes, expected):
    plugin = SimpleNamespace(zero_stage=stage)
    accelerator = SimpleNamespace(
        num_processes=processes, distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    assert must_keep_step(accelerator) is expected
