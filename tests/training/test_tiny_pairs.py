"""Pairs of sign and colour that training never shows, in the loss of the small checkpoint."""

import math

import numpy as np
import pytest
import torch

from videoxl.synthetic.needles import CARDS, COLOURS, VALUES, Needle, colours_of
from videoxl.synthetic.plans import Plan
from videoxl.synthetic.questions import MAKERS, describe
from videoxl.synthetic.tasks import sentences
from videoxl.training.tiny_pairs import UnshownPairs, loss_without
from videoxl.training.tiny_parts import CHAT_WORDS, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([CHAT_WORDS, *sentences("train", 60)])


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return UnshownPairs(tokenizer)


def left_out(pairs, tokenizer, text):
    """Pairs of each word of an answer and the words that take no part where it is to be said."""
    ids = tokenizer.encode(text)
    rows = pairs.rows([-100, *ids])[1:]
    named = [{tokenizer.decode([token]).strip() for token in pairs.left_out[row].nonzero()[:, 0]} for row in rows]
    return list(zip((tokenizer.decode([token]).strip() for token in ids), named))


@pytest.mark.parametrize("kind", CARDS)
def test_behind_a_sign_the_colours_it_never_has_are_left_out(pairs, tokenizer, kind):
    for value in VALUES[kind]:
        name = Needle(kind, value, "red").name
        hidden = set(COLOURS) - set(colours_of("train", kind, value))
        for colour in colours_of("train", kind, value):
            said = left_out(pairs, tokenizer, f"The {name.removeprefix('the ')} was on {colour}. (B)")
            assert dict(said)[colour] == hidden and len(hidden) == 2
            assert dict(said)[value] == set() == said[0][1]


def test_behind_a_colour_the_signs_it_never_has_are_left_out(pairs, tokenizer):
    for colour in COLOURS:
        said = dict(left_out(pairs, tokenizer, f"On {colour}: the letter"))
        signs = [(kind, value) for kind in CARDS for value in VALUES[kind]]
        assert said["letter"] == {value for kind, value in signs if colour not in colours_of("train", kind, value)}


def test_each_sign_of_a_list_rules_its_own_colour(pairs, tokenizer):
    said = dict(left_out(pairs, tokenizer, "The letter K on red, the star on green."))
    assert said["red"] == set(COLOURS) - set(colours_of("train", "letter", "K"))
    assert said["green"] == set(COLOURS) - set(colours_of("train", "symbol", "star"))


def test_another_answer_starts_anew(pairs, tokenizer):
    moon = tokenizer.encode(" moon")
    assert pairs.rows([-100, *moon, *moon])[2] and not any(pairs.rows([-100, *moon, -100, -100, *moon]))


def test_what_answers_of_training_say_always_takes_part(pairs, tokenizer):
    """And what those of the test say where it is another colour, never: else its pairs are learned to be wrong."""
    for split, expected in (("train", False), ("test", True)):
        rng = np.random.default_rng(0)
        seen = 0
        for kind in CARDS:
            for value in VALUES[kind]:
                needle = Needle(kind, value, str(rng.choice(colours_of(split, kind, value))))
                plan = Plan(split, 40, ((3, needle),))
                for question in (*MAKERS["retrieval"](rng, plan), describe(rng, plan)):
                    ids = tokenizer.encode(question.answer)
                    rows = pairs.rows([-100, *ids])[1:]
                    found = [bool(pairs.left_out[row, token]) for row, token in zip(rows, ids)]
                    assert any(found) is (expected and needle.colour in question.answer)
                    seen += 1
        assert seen > 3 * 37


def test_the_loss_is_that_of_a_smaller_vocabulary():
    logits = torch.randn(3, 6, requires_grad=True)
    targets = torch.tensor([1, 4, 5])
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[0, [2, 3]] = True
    hidden[2, [0, 5]] = True  # 5 is the target: it takes part
    loss = loss_without(hidden, logits, targets)
    plain = 0.0
    for row, (target, kept) in enumerate(zip(targets, ([0, 1, 4, 5], range(6), [1, 2, 3, 4, 5]))):
        total = sum(math.exp(logits.detach()[row, place]) for place in kept)
        plain += math.log(total) - float(logits.detach()[row, target])
    assert loss.item() == pytest.approx(plain, rel=1e-5)
    loss.backward()
    assert logits.grad[0, [2, 3]].eq(0).all() and logits.grad[1].ne(0).all() and logits.grad[2, 0] == 0


def test_a_word_of_several_tokens_is_refused():
    with pytest.raises(ValueError, match="tokens: train it on more films"):
        UnshownPairs(train_tokenizer([CHAT_WORDS]))
