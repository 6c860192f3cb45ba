"""The GPU benchmark on a toy: it runs, and its count of arithmetic is torch's."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu


def test_it_runs(tmp_path):
    output = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--device", "cpu", "--frames", "32", "--output", str(output)])
    told = json.loads(output.read_text())
    assert [row["ratio"] for row in told["prefill"]] == list(gpu.RATIOS)
    assert all(row["share_of_peak"] > 0 and row["kept"] > 0 for row in told["prefill"])
    assert all(told["decoding"][way]["tokens_per_second"] > 0 for way in ("plain", "compiled"))
    assert len(told["authors"]["seconds"]["authors"]) == 2


@pytest.fixture
def one_thread_of_ours():
    """torch shares operations among cores, so that windows stay in the thread whose operations torch counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("ratio", [2, 8])
def test_arithmetic_is_counted_as_torch_counts_it(ratio, one_thread_of_ours):
    shapes = dataclasses.replace(gpu.TINY, layers=24)  # of few layers those count that compute VST rows alone
    bench = gpu.Bench(shapes, gpu.build_model(shapes, "cpu"), "cpu")
    bench.model.set_attn_implementation("eager")
    frames = 100
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bench.prefill(frames, ratio)
    counted = counter.get_total_flops()  # with what eager attention computes and the causal mask hides
    assert gpu.prefill_flops(shapes, frames, ratio) == pytest.approx(counted, rel=0.15)
