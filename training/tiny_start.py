"""How the small language model starts: with the attention that large ones come to by themselves, after many words.

A model with plain random weights of this size learns in tens of thousands of questions nothing about finding again
what has been named before. So its first layer starts with heads that look a few tokens back, and the next two with
heads that look for what the first ones saw and hand on what those saw there: the "induction heads" that form early in
every large language model (Olsson et al., 2022, "In-context Learning and Induction Heads"). Training goes on from
there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

TURNING = 5  # of a head's pairs of dimensions, the fastest, in which keys tell their places
HEIGHT = 5.0  # of a key's bias there: what keys of words add is small beside it
SHARPNESS = 2.9  # of the heads that match
QUIET = 0.1  # of usual: what untrained feed-forward layers write, which would else drown out the words
QUIET_ATTENTION = 0.3  # of usual: the same of the other layers' attention
# Of usual: what queries and keys of the first layer take from words. At its full height it moved heads off the place
# that they look back to, and the step from a word to its option's letter was learned from some random starts only.
FAINT = 0.1
UNSEEN = -12.0  # score of VSTs with heads that are not to see them, words aside, which make it -5.5 on the whole
SHARP = 4  # of a head's pairs, the fastest: with them a head of the first layer looks at one place
SCORE = 40.0  # of the token there, before the softmax
LOOKS = (1, 2, 3, 2)  # how many tokens each head of the first layer looks back
OWN = -1  # the token itself, in the place of a look


class Finder(NamedTuple):
    """
    A head of keys in a finding layer: each number is one of `LOOKS`, or `OWN`.

    Args:
        by: what a token is found by.
        hands: what is handed on of a token that was found.
        asks: what its two heads of queries look for.
        films: whether VSTs can be found by it, too.
    """

    by: int
    hands: int
    asks: tuple[int, int]
    films: bool = True


# An option's letter stands two tokens before its word, and so does an answer's last word before its letter. What a
# question names is copied by the word before it: behind "letter" the answer goes on as the question did, whatever
# letters the film shows.
OPTIONS = Finder(by=OWN, hands=3, asks=(3, 2))
FINDERS = {
    1: (Finder(by=0, hands=OWN, asks=(OWN, 1), films=False), OPTIONS),
    2: (Finder(by=OWN, hands=1, asks=(1, OWN)), OPTIONS),
}


def start_attention(model: nn.Module, seed: int) -> None:
    """
    Sets the attention of an untrained Qwen2 as told above.

    Args:
        model: a Qwen2 for causal language modelling, of 2 or 4 heads, two to a head of keys; changed in place.
        seed: of the subspaces that heads write to.

    Raises:
        ValueError: for a model of other heads.
    """
    config = model.config
    heads = config.num_attention_heads
    if heads not in (2, 4) or config.num_key_value_heads != heads // 2:
        raise ValueError(f"{heads} heads on {config.num_key_value_heads} of keys: this start is for 2 on 1, or 4 on 2")
    looks = LOOKS[:heads]
    width, hidden = model.model.layers[0].self_attn.head_dim, config.hidden_size
    seen, noted = _subspaces(hidden, width, heads, seed)
    wordlike = config.initializer_range  # makes of a normalized word one as long as its embedding
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.mul_(QUIET)
            attention = layer.self_attn
            if number == 0:
                attention.q_proj.weight.mul_(FAINT)
                attention.k_proj.weight.mul_(FAINT)
                _look_back(attention, looks, config.rope_parameters["rope_theta"])
                attention.v_proj.weight.copy_(torch.cat(seen))
                attention.o_proj.weight.copy_(torch.cat(noted).T * wordlike)
            elif number in FINDERS:
                finders = list(zip(seen, FINDERS[number]))  # OWN is each head of keys' own view of the token
                attention.k_proj.weight.copy_(_anywhere([[*noted, own][one.by] for own, one in finders]))
                asked = [[*noted, own][ask] for own, one in finders for ask in one.asks]
                attention.q_proj.weight.copy_(_anywhere(asked))
                attention.v_proj.weight.copy_(torch.cat([[*noted, own][one.hands] for own, one in finders]))
                for place, one in enumerate(FINDERS[number][: len(seen)]):
                    if not one.films:
                        _last_pair(attention.k_proj.weight, place, width).zero_()
                        _last_pair(attention.q_proj.bias, place, width, 2).fill_(HEIGHT)
                words = torch.cat([seen[head // 2] for head in range(heads)])
                attention.o_proj.weight.copy_(words.T * 2 * wordlike)
            else:
                attention.o_proj.weight.mul_(QUIET_ATTENTION)


def start_beacons(model: nn.Module, seed: int) -> None:
    """
    Has VSTs be found by what they looked back at, and hand that on: what they are themselves is all the same.

    Args:
        model: a Video-XL, assembled of a Qwen2 that [`start_attention`] started; changed in place.
        seed: that was given there.
    """
    text = model.config.text_config
    layers = model.model.language_model.layers
    width = layers[0].self_attn.head_dim
    seen, noted = _subspaces(text.hidden_size, width, text.num_attention_heads, seed)
    saw = [noted[2 * head] for head in range(len(seen))]  # in the coordinates that queries ask in
    with torch.no_grad():
        layers[0].self_attn.beacon_k_proj.bias.zero_()
        for number in FINDERS:
            if number < len(layers):
                attention = layers[number].self_attn
                found = [own * one.films for own, one in zip(saw, FINDERS[number])]
                attention.beacon_k_proj.weight.copy_(_anywhere(found))
                attention.beacon_v_proj.weight.copy_(torch.cat(saw))
                for place, one in enumerate(FINDERS[number][: len(saw)]):
                    if not one.films:
                        _last_pair(attention.beacon_k_proj.bias, place, width).fill_(UNSEEN * width**0.5 / HEIGHT)


def _last_pair(states: torch.Tensor, place: int, width: int, count: int = 1) -> torch.Tensor:
    """Of the `count` heads on the head of keys `place`, the first half of the slowest rotary pair; a view."""
    heads = states.unflatten(0, (-1, 2, width // 2))[place * count : (place + 1) * count]
    return heads[:, 0, -1]


def _subspaces(hidden: int, width: int, heads: int, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What each key head sees of a word, and where each head of the first layer writes what it saw; [d, D] each."""
    generator = torch.Generator().manual_seed(seed)
    seen = [_directions(hidden, width, generator) for _ in range(heads // 2)]
    return seen, [_directions(hidden, width, generator) for _ in range(heads)]


def _anywhere(subspaces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of keys and queries that match at any distance, [H d, D]: the rotary pairs that turn are left alone."""
    weights = torch.cat(list(subspaces)).unflatten(0, (len(subspaces), 2, -1)).clone()  # [H, 2, d / 2, D]
    weights[:, :, :TURNING] = 0
    return weights.flatten(0, 2) * SHARPNESS**0.5


def _directions(hidden: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """[d, D], rows orthonormal."""
    return torch.linalg.qr(torch.randn(hidden, width, generator=generator))[0].T


def _look_back(attention: nn.Module, looks: Sequence[int], theta: float) -> None:
    """
    Biases of keys and queries meet in a score that depends on their distance alone: the sum over rotary pairs of the
    cosines of (distance - wanted distance) x speed.
    """
    width = attention.head_dim
    half = width // 2
    speeds = theta ** (-torch.arange(half) / half)
    keys = attention.k_proj.bias.unflatten(0, (-1, width))  # [H_kv, d], a view
    keys.zero_()
    keys[:, :TURNING] = HEIGHT
    queries = attention.q_proj.bias.unflatten(0, (-1, width))  # [H, d]
    queries.zero_()
    size = SCORE * width**0.5 / HEIGHT / SHARP
    for query, distance in zip(queries, looks):
        query[:SHARP] = size * torch.cos(-distance * speeds[:SHARP])
        query[half : half + SHARP] = size * torch.sin(-distance * speeds[:SHARP])
