"""Windows that are computed again in the backward pass: the same gradients out of less memory."""

from itertools import pairwise

import pytest
import torch
from test_training import gradients

from benchmarks.train_memory import Shapes, build_model, held_bytes, lesson

FRAMES = (16, 64, 256)


@pytest.fixture
def batch(small):
    """Two films of three windows and a remainder each, and an image between two texts."""
    small.model.train()
    prefix, middle = small.text(9), small.text(5)
    rows = [[*prefix, *[small.video] * 148, *middle, *[small.image] * 8, *small.text(count)] for count in (6, 9)]
    length = max(map(len, rows))
    ids = torch.tensor([row + [500] * (length - len(row)) for row in rows])
    labels = ids.clone()
    labels[:, :162] = -100  # in training the last visual token predicts nothing, but the one behind it does
    return {
        "input_ids": ids,
        "attention_mask": (ids != 500).long(),
        "labels": labels,
        "pixel_values_videos": [small.frames(37), small.frames(37)],
        "pixel_values": [small.frames(2), small.frames(2)],
        "ratio_seeds": torch.tensor([6, 6]),
    }


def compare(model, batch):
    plain = model(**batch).loss
    expected = gradients(model, plain)
    model.enable_window_checkpointing()
    again = model(**batch).loss
    assert again.item() == plain.item()
    ours = gradients(model, again)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert (ours[name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name
    return ours


@pytest.mark.parametrize("seeds", [(6, 6), (6, 7)], ids=["together", "row by row"])
@pytest.mark.parametrize("layers_too", [False, True])
def test_gradients_are_those_without_it(layers_too, seeds, small, batch):
    if layers_too:
        small.model.activation_checkpointing_enable()
    batch["ratio_seeds"] = torch.tensor(seeds)
    ours = compare(small.model, batch)
    for part in ("beacon_q", "beacon_k", "beacon_v", "beacon_embed", ".q_proj", "vision_tower", "multi_modal_proj"):
        assert any(part in name and value.abs().sum() > 0 for name, value in ours.items()), part


def test_with_a_frozen_vision_tower(small, batch):
    small.model.model.vision_tower.requires_grad_(False)
    ours = compare(small.model, batch)
    assert not any("vision_tower" in name for name in ours)
    assert any("multi_modal_projector" in name for name in ours)


def test_with_the_projector_alone(small, batch):
    small.model.requires_grad_(False)
    small.model.model.multi_modal_projector.requires_grad_(True)
    ours = compare(small.model, batch)
    assert len(ours) == 4
    assert all(value.abs().sum() > 0 for value in ours.values())


def test_with_lora(small, batch):
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model\.layers\.\d+\.self_attn\.(beacon_)?[qkv]_proj"
    model = get_peft_model(small.model, LoraConfig(target_modules=targets, r=4, lora_dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ours = compare(model, batch)
    assert ours
    assert all("lora" in name for name in ours)


def test_dropout_falls_alike_both_times(small, batch):
    small.model.config.text_config.attention_dropout = 0.3
    for layer in small.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.3
    losses, found = [], []
    for enabled in (False, True):
        small.model.enable_window_checkpointing(enabled)
        torch.manual_seed(3)
        losses.append(small.model(**batch).loss)
        found.append(gradients(small.model, losses[-1]))
    assert losses[0].item() == losses[1].item()
    for name, value in found[0].items():
        assert (found[1][name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name


def test_a_cache_that_is_asked_for_holds_what_it_holds_without(small, batch):
    arguments = {name: value[:1] for name, value in batch.items()}
    caches = []
    for enabled in (False, True):
        small.model.enable_window_checkpointing(enabled)
        caches.append(small.model.new_cache())
        small.model(**arguments, past_key_values=caches[-1], use_cache=True)
    assert caches[0].summary() == caches[1].summary()
    for ours, expected in zip(*(cache.layers for cache in caches)):
        torch.testing.assert_close(ours.keys, expected.keys)
        torch.testing.assert_close(ours.values, expected.values)


def test_evaluation_is_none_of_its_business(small, batch):
    expected = small.model.eval()(**batch).loss.item()
    small.model.enable_window_checkpointing()
    assert small.model(**batch).loss.item() == expected


@pytest.mark.parametrize("ratio", [2, 16])
def test_bytes_per_added_frame(ratio):
    """Every storage that the forward pass made and that lives on is counted."""
    shapes = Shapes(hidden=64, layers=4, heads=2, kv_heads=2, intermediate=192, ratio=ratio)
    model = build_model(shapes)
    model.enable_window_checkpointing()
    held = [held_bytes(model, lesson(shapes, frames)) for frames in FRAMES]
    for (frames, before), (more, after) in pairwise(zip(FRAMES, held)):
        assert 0.5 * shapes.bound_per_frame < (after - before) / (more - frames) <= shapes.bound_per_frame
    model.enable_window_checkpointing(False)
    assert held_bytes(model, lesson(shapes, 16)) > 10 * held[0]
