"""Loss, gradients and the random ratios of training."""

import numpy as np
import pytest
import torch


@pytest.fixture
def lesson(small):
    """A film of three windows and a remainder with a labelled answer, the model in training."""
    ids = [*small.text(9), *[small.video] * 148, *small.text(12)]
    labels = [-100] * 161 + ids[161:]
    small.model.train()
    arguments = {"input_ids": torch.tensor([ids]), "pixel_values_videos": [small.frames(37)]}
    return arguments, torch.tensor([labels])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_is_cross_entropy_over_the_shifted_labels(small, lesson):
    arguments, labels = lesson
    logits = small.model.eval()(**arguments, compression_ratio=8).logits[0]
    chosen = labels[0, 1:] != -100
    expected = torch.nn.functional.cross_entropy(logits[:-1][chosen], labels[0, 1:][chosen])
    evaluated = small.model(**arguments, labels=labels, compression_ratio=8)
    trained = small.model.train()(**arguments, labels=labels, compression_ratio=8)
    assert evaluated.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert trained.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert evaluated.logits.shape == (1, labels.shape[1], 512)
    assert trained.logits is None
    kept = small.model(**arguments, labels=labels, compression_ratio=8, logits_to_keep=labels.shape[1])
    torch.testing.assert_close(kept.logits, evaluated.logits, atol=1e-4, rtol=0)
    halved = small.model(**arguments, labels=labels, compression_ratio=8, num_items_in_batch=16)
    assert halved.loss.item() == pytest.approx(expected.item() * chosen.sum().item() / 16, abs=1e-5)


def test_cut_windows_learn_what_whole_windows_learn(small, lesson):
    """The rows and layers that training leaves out have no gradient in the full computation either."""
    arguments, labels = lesson
    full = small.model(**arguments, compression_ratio=8).logits[0]
    chosen = labels[0, 1:] != -100
    loss = torch.nn.functional.cross_entropy(full[:-1][chosen], labels[0, 1:][chosen])
    expected = gradients(small.model, loss)
    ours = gradients(small.model, small.model(**arguments, labels=labels, compression_ratio=8).loss)
    for name in expected:
        if name in ours:
            torch.testing.assert_close(ours[name], expected[name], atol=1e-6, rtol=1e-3)
        else:
            assert expected[name].abs().max() < 1e-9
    for part in ("beacon_q", "beacon_k", "beacon_v", "beacon_embed", "vision_tower", "multi_modal_projector"):
        assert any(part in name and value.abs().sum() > 0 for name, value in ours.items()), part


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_keeps_the_memory(reentrant, small, lesson):
    arguments, labels = lesson
    plain = small.model(**arguments, labels=labels, compression_ratio=[8, 2, 4, 0]).loss
    expected = gradients(small.model, plain)
    small.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        small.model.enable_input_require_grads()
    checkpointed = small.model(**arguments, labels=labels, compression_ratio=[8, 2, 4, 0]).loss
    assert checkpointed.item() == plain.item()
    ours = gradients(small.model, checkpointed)
    for name, value in expected.items():
        if "vision_tower.embeddings" in name or "pre_layrnorm" in name:
            continue  # a reentrant checkpoint needs an input with a gradient, which pixels have not
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-3)


def test_padded_batch_learns_the_mean_of_all_labels(small, lesson):
    arguments, labels = lesson
    short = [*small.text(4), *[small.image] * 8, *small.text(6)]
    gap = labels.shape[1] - len(short)
    ids = torch.cat((arguments["input_ids"], torch.tensor([short + [500] * gap])))
    both = torch.cat((labels, torch.tensor([[-100] * 13 + short[13:] + [-100] * gap])))
    image = small.frames(2)
    loss = small.model(
        ids,
        attention_mask=torch.tensor([[1] * labels.shape[1], [1] * len(short) + [0] * gap]),
        pixel_values_videos=arguments["pixel_values_videos"],
        pixel_values=[image],
        labels=both,
        compression_ratio=8,
    ).loss
    counts = [(row[1:] != -100).sum().item() for row in both]
    alone = [
        small.model(**arguments, labels=labels, compression_ratio=8).loss.item(),
        small.model(
            ids[1:, : len(short)], pixel_values=[image], labels=both[1:, : len(short)], compression_ratio=8
        ).loss.item(),
    ]
    assert loss.item() == pytest.approx(np.average(alone, weights=counts), abs=1e-5)


def test_ratios_are_drawn_among_those_that_divide_the_window(small, lesson):
    """Windows of 48 take any of 2, 4, 8, 12, 16; the last one of 4 tokens takes 2 or 4."""
    arguments, labels = lesson
    seen = set()
    for seed in range(12):
        small.model.seed_ratios(seed)
        cache = small.model.new_cache()
        first = small.model(**arguments, labels=labels, past_key_values=cache, use_cache=True).loss.item()
        beacons = cache.summary()["kept"]["beacons"]
        small.model.seed_ratios(seed)
        assert small.model(**arguments, labels=labels).loss.item() == first
        seen.add(beacons)
        possible = {
            sum(48 // r for r in (a, b, c)) + 4 // d
            for a in (2, 4, 8, 12, 16)
            for b in (2, 4, 8, 12, 16)
            for c in (2, 4, 8, 12, 16)
            for d in (2, 4)
        }
        assert beacons in possible
    assert len(seen) > 4


def test_the_smallest_ratio_where_none_divides(small):
    small.config.text_config.beacon_ratio = [8, 5, 7]
    small.model.train()
    cache = small.model.new_cache()
    ids = torch.tensor([[*small.text(3), *[small.video] * 44, *small.text(2)]])
    small.model(ids, pixel_values_videos=[small.frames(11)], past_key_values=cache, use_cache=True)
    assert cache.summary()["kept"]["beacons"] == 44 // 5


def test_nothing_labelled_is_no_loss(small, lesson):
    arguments, labels = lesson
    loss = small.model(**arguments, labels=torch.full_like(labels, -100), compression_ratio=8).loss
    assert loss.item() == 0
    assert all(value.abs().max() == 0 for value in gradients(small.model, loss).values())


def test_a_window_without_a_vst_does_not_disturb_the_next_call(small):
    """The authors' code leaves its feature cursor behind there."""
    blind = torch.tensor([[*small.text(3), *[small.video] * 4, *small.text(3)]])
    seeing = torch.tensor([[*small.text(3), *[small.video] * 48, *small.text(3)]])
    frames = small.frames(12)
    expected = small.logits(seeing[0].tolist(), pixel_values_videos=[frames], compression_ratio=8)
    small.logits(blind[0].tolist(), pixel_values_videos=[small.frames(1)], compression_ratio=8)
    assert torch.equal(small.logits(seeing[0].tolist(), pixel_values_videos=[frames], compression_ratio=8), expected)


def test_trainer_trains_and_evaluates(small, lesson, tmp_path):
    from transformers import Trainer, TrainingArguments

    arguments, labels = lesson
    example = {
        "input_ids": arguments["input_ids"][0],
        "labels": labels[0],
        "frames": arguments["pixel_values_videos"][0],
    }

    def collate(examples):
        return {
            "input_ids": torch.stack([example["input_ids"] for example in examples]),
            "labels": torch.stack([example["labels"] for example in examples]),
            "pixel_values_videos": [example["frames"] for example in examples],
        }

    def run(batch, steps):
        from videoxl import VideoXLForCausalLM

        model = VideoXLForCausalLM.from_pretrained(small.checkpoint, vision_tower=small.checkpoint / "clip")
        settings = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=2 // batch,
            max_steps=steps,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        other = {**example, "labels": torch.cat((labels[0, :-4], torch.full((4,), -100)))}
        trainer = Trainer(
            model, settings, data_collator=collate, train_dataset=[example, other], eval_dataset=[example]
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.evaluate()["eval_loss"]

    losses, evaluated = run(batch=2, steps=4)
    assert losses[-1] < losses[0] - 0.1
    assert np.isfinite(evaluated)
    torch.testing.assert_close(run(batch=1, steps=1)[0], losses[:1], atol=2e-2, rtol=0)
