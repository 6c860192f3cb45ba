"""Rows of a training batch: whose ratios are drawn how, and which go through the layers together."""

import numpy as np
import pytest
import torch
from test_training import gradients

PAD = 500


@pytest.fixture
def lessons(small):
    """Makes a batch of films with labelled answers of different lengths, padded on the right; and its single rows."""

    def make(frames, answers):
        small.model.train()
        prefix, films = small.text(9), [small.frames(count) for count in frames]
        rows = [[*prefix, *[small.video] * (4 * count), *small.text(n)] for count, n in zip(frames, answers)]
        length = max(map(len, rows))
        labels = [[-100] * (len(row) - n) + row[len(row) - n :] for row, n in zip(rows, answers)]
        batch = {
            "input_ids": torch.tensor([row + [PAD] * (length - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            "labels": torch.tensor([row + [-100] * (length - len(row)) for row in labels]),
            "pixel_values_videos": films,
        }
        singles = [
            {"input_ids": torch.tensor([row]), "labels": torch.tensor([label]), "pixel_values_videos": [film]}
            for row, label, film in zip(rows, labels, films)
        ]
        return batch, singles

    return make


def drawn_beacons(small, arguments, seeds):
    cache = small.model.new_cache()
    small.model(**arguments, ratio_seeds=seeds, past_key_values=cache, use_cache=True)
    return [row.beacons for row in cache._rows]


def passes(small, call):
    """How many passes of the language model `call` takes."""
    seen = []
    hook = small.model.model.language_model.register_forward_hook(lambda *_: seen.append(1))
    call()
    hook.remove()
    return len(seen)


def test_a_rows_draws_depend_on_its_seed_alone(small, lessons):
    batch, singles = lessons([60, 60, 36, 60], [5, 5, 5, 5])
    seeds = torch.tensor([3, 11, 3, 2**62])
    together = drawn_beacons(small, batch, seeds)
    small.model.seed_ratios(1)
    alone = [drawn_beacons(small, single, seeds[[row]])[0] for row, single in reversed(list(enumerate(singles)))]
    assert alone[::-1] == together
    assert len({drawn_beacons(small, singles[0], torch.tensor([seed]))[0] for seed in range(10)}) > 4


def test_draws_of_a_longer_film_begin_with_those_of_a_shorter_one(small, lessons):
    """60 frames are five full windows, 24 the first two of them."""
    _, singles = lessons([60, 24], [4, 4])

    def kept_per_window(arguments):
        kept = []
        hook = small.model.model.language_model.register_forward_pre_hook(lambda _, args: kept.append(args[1].beacons))
        small.model(**arguments, ratio_seeds=torch.tensor([5]))
        hook.remove()
        return [count for count in kept if count]

    longer, shorter = (kept_per_window(single) for single in singles)
    assert len(longer) == 5
    assert longer[:2] == shorter
    assert len(set(longer)) > 1


def test_equal_seeds_and_spans_run_together(small, lessons):
    batch, _ = lessons([24, 24, 24], [6, 6, 6])
    assert passes(small, lambda: small.model(**batch, ratio_seeds=torch.tensor([4, 4, 4]))) == 4
    assert passes(small, lambda: small.model(**batch, ratio_seeds=torch.tensor([4, 9, 4]))) == 8
    small.model.eval()
    assert passes(small, lambda: small.model(**batch, ratio_seeds=torch.tensor([4, 9, 4]))) == 4


@pytest.mark.parametrize(
    ("frames", "answers", "seeds", "expected"),
    [
        ([24, 24, 24], [3, 12, 7], [8, 8, 8], 4),  # one group: text, two windows, text
        ([24, 13, 24], [3, 12, 7], [8, 8, 8], 8),  # two groups, whose rows are not neighbours
        ([24, 24], [3, 9], [8, 9], 8),
    ],
)
def test_texts_of_different_lengths_learn_what_they_learn_alone(frames, answers, seeds, expected, small, lessons):
    batch, singles = lessons(frames, answers)
    seeds = torch.tensor(seeds)
    losses = []
    assert passes(small, lambda: losses.append(small.model(**batch, ratio_seeds=seeds).loss)) == expected
    ours = gradients(small.model, losses[0])
    total = sum((row["labels"][0, 1:] != -100).sum().item() for row in singles)
    alone = [
        small.model(**single, ratio_seeds=seeds[[row]], num_items_in_batch=total).loss
        for row, single in enumerate(singles)
    ]
    assert losses[0].item() == pytest.approx(sum(alone).item(), abs=1e-5)
    wanted = gradients(small.model, sum(alone))
    assert wanted.keys() == ours.keys()
    for name, value in wanted.items():
        assert (ours[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


def test_rows_with_nothing_labelled_beside_others(small, lessons):
    batch, singles = lessons([24, 13], [6, 4])
    batch["labels"][1] = -100
    seeds = torch.tensor([8, 8])
    alone = small.model(**singles[0], ratio_seeds=seeds[:1]).loss.item()
    assert small.model(**batch, ratio_seeds=seeds).loss.item() == pytest.approx(alone, abs=1e-5)


def test_padding_on_the_left_or_in_between_runs_alone(small, lessons):
    batch, _ = lessons([24, 24], [6, 4])
    seeds = torch.tensor([8, 8])
    expected = small.model(**batch, ratio_seeds=seeds).loss.item()
    for name in ("input_ids", "attention_mask", "labels"):
        length = batch[name].shape[1]
        order = np.r_[length - 2 : length, 0 : length - 2]  # the two columns of padding go to the front
        batch[name][1] = batch[name][1, torch.from_numpy(order)]
    losses = []
    assert passes(small, lambda: losses.append(small.model(**batch, ratio_seeds=seeds).loss.item())) == 8
    assert losses[0] == pytest.approx(expected, abs=1e-5)


def test_outputs_at_padding_stay_zeros(small, lessons):
    batch, _ = lessons([24, 24], [6, 4])
    batch.pop("labels")
    hidden = small.model.model(**batch, ratio_seeds=torch.tensor([8, 8])).last_hidden_state
    assert hidden[1, -2:].abs().max() == 0
    assert hidden[1, -3].abs().max() > 0


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3], [1, -1], [0.5, 1.5]])
def test_bad_seeds_are_named(seeds, small, lessons):
    batch, _ = lessons([24, 24], [6, 6])
    with pytest.raises(ValueError, match=r"ratio_seeds=.*each of the 2 rows"):
        small.model(**batch, ratio_seeds=torch.tensor(seeds))
