"""What is trained: parts by name, and adapters."""

import re

import pytest
import torch
from training_rows import film, row
from transformers import AutoModelForCausalLM

from videoxl.training.parts import ALL_PARTS, LoraSettings, train_only, with_adapters
from videoxl.training.run import run_training


@pytest.fixture
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_each_parameter_is_in_one_part(model):
    parts = []
    for part in ALL_PARTS:
        train_only(model, [part])
        parts.append(trained(model))
        assert parts[-1]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(list(model.parameters()))
    train_only(model, ["beacons"])
    assert all("beacon_" in name for name in trained(model))
    assert len(trained(model)) == 1 + 3 * 6  # the VST, and three projections with biases in each of three layers


def test_adapters_are_for_the_language_model_and_the_beacons(model):
    adapted = trained(with_adapters(model, LoraSettings(rank=4), ["language_model", "beacons"]))
    names = {re.sub(r"layers\.\d", "layers.N", name.removeprefix("base_model.model.")) for name in adapted}
    layer = "model.language_model.layers.N"
    targets = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "o", "beacon_q", "beacon_k", "beacon_v")]
    targets += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    expected = {f"{layer}.{target}.lora_{part}.default.weight" for target in targets for part in "AB"}
    assert names == {*expected, "model.language_model.beacon_embed_tokens.modules_to_save.default.weight"}


def test_adapters_are_trained_resumed_and_loaded(checkpoint, tmp_path):
    rows = [row(str(n), "<image>\nWhat?", f"It is {n}.", video=film(14, n)) for n in range(4)]
    run = {"model": str(checkpoint), "output_dir": str(tmp_path), "lora": {"rank": 4}, "max_steps": 4, "save_steps": 2}
    run |= {"trained_parts": ["projector", "language_model", "beacons"], "learning_rate": 1e-2, "logging_steps": 1}
    run |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 4}
    trainer = run_training(run, train_rows=rows)
    whole = {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}
    assert whole[4] < whole[1]
    again = run_training(
        {**run, "resume_from_checkpoint": str(tmp_path / "checkpoint-2"), "output_dir": str(tmp_path / "again")},
        train_rows=rows,
    )
    assert {line["step"]: line["loss"] for line in again.state.log_history if "loss" in line} == pytest.approx(whole)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    batch = trainer.data_collator(rows)
    with torch.no_grad():
        ours, plain = (
            one(**batch).loss.item() for one in (loaded, AutoModelForCausalLM.from_pretrained(checkpoint).eval())
        )
        assert ours == pytest.approx(trainer.model.eval()(**batch).loss.item(), abs=1e-4)
    assert ours < plain - 0.1
