"""Clocks for the small checkpoint: it is told when a card was shown, by heads that training left without use.

Training alone, with thousands of questions, taught weights of this size nothing about time. So what is missing is set
in closed form, and training goes on from there, as with `tiny_start.py`:

- Clocks, in layer 1. VSTs look at all VSTs before them alike, and at one word in front of the film, "system", that
  weighs as much as w VSTs: its share is sigmoid(log w - log n) behind n VSTs. Two weights tell log n over a wide
  range.
- A finder, in layer 3. One head asks for the sign that the text named one to three words ago and finds its VST; one
  looks at all VSTs alike. Both hand on log n, and what is written is their difference: log(time) - log(length).
- A thermometer, in layer 3's feed-forward part: units that go from 0 to a fixed height where that difference passes a
  share of the film, and stay at 0 where no card was found.
- A readout, in layer 5's feed-forward part: where an answer is about to say a time, the digit or the third that the
  thermometer shows.

What is linear in it is fitted by ridge regression on training films spelled in words.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.processing.processing_videoxl import VideoXLProcessor
from videoxl.synthetic.questions import THIRDS

from .tiny_readings import NO_SIGN, line, read_films, sign_tokens, token_of

CLOCKS, FINDER, READOUT = 1, 3, 5  # the layers
HEADS, KEY_HEADS, WIDTH = 4, 2, 32
SWITCH = 15  # of a head's dimensions: with its partner the slowest pair, which hardly turns
# Of a head's dimensions those in which codes are compared: slow pairs, which match at any distance.
SLOW = (*range(6, 15), *range(22, 32))

LOG_WEIGHTS = (2.2, 5.7)  # of "system", in VSTs
WORD_KEY, OTHER_KEY, VST_KEY = -20.0, 8.0, -13.6  # in the switch; queries there are negative
LOUD = 9.0  # as long as this is what the clocks write, in the direction that VSTs use least

MATCH, EVERYWHERE, LEANING = 22.0, 9.0, 0.3  # scores: of the sign asked for, of any VST; of that with the finder
MIDDLE = 4.0  # log n that is handed on as 0
WRITTEN = 8.0

SHARES = (
    *(0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.333, 0.4, 0.45),
    *(0.5, 0.55, 0.6, 0.667, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
)  # of the film, where the thermometer has steps
RISE = 6.0  # of a unit's gate over its step: about where silu is a line
HEIGHT = 2.5
SAID, LIFT = 2.6, 8.0  # of the readout: what it adds along a word, for each unit of its logit and of this beside

# Ridge penalties; softer ones lean less on directions that hardly vary.
EXACT, SOFT, SOFT_CLOCK = 1e-4, 3e-3, 1e-2


class Spoken(NamedTuple):
    """Where rows of layers 3 and on hold what the finder found: directions, [D] each, and [shares, D]."""

    when: torch.Tensor
    films: torch.Tensor
    card: torch.Tensor
    steps: torch.Tensor


def graft(model: VideoXLForCausalLM, processor: VideoXLProcessor, films: int = 60) -> None:
    """
    Sets all four, as told above.

    Args:
        model: a small checkpoint that finds cards; changed in place.
        processor: its own.
        films: of a fit; some take fewer, and some a multiple.

    Raises:
        ValueError: for a model of other heads or fewer layers than `videoxl-tiny`.
    """
    check_heads(model)
    set_clocks(model, processor, films // 3)
    spoken = set_finder(model, processor, films)
    set_thermometer(model, processor, spoken, films)
    set_readout(model, processor, spoken, 2 * films)


def check_heads(model: VideoXLForCausalLM) -> None:
    """
    Raises:
        ValueError: for a model of other heads or fewer layers than `videoxl-tiny`.
    """
    text = model.config.text_config
    has = (text.num_attention_heads, text.num_key_value_heads, text.hidden_size // text.num_attention_heads)
    if has != (HEADS, KEY_HEADS, WIDTH) or text.num_hidden_layers <= READOUT:
        raise ValueError(
            f"the model has {has[0]} heads on {has[1]} of keys, {has[2]} wide, in {text.num_hidden_layers} layers: "
            f"clocks are for {HEADS} on {KEY_HEADS}, {WIDTH} wide, in {READOUT + 1} layers or more"
        )


# Clocks


@torch.no_grad()
def set_clocks(model: VideoXLForCausalLM, processor: VideoXLProcessor, films: int) -> None:
    """
    VSTs write the shares that "system" has of their sight, with the first two heads of layer 1.

    Args:
        model: changed in place.
        processor: its own.
        films: of each fit.
    """
    layers = model.model.language_model.layers
    attention = layers[CLOCKS].self_attn
    readings = [*read_films(model, processor, layers[CLOCKS].input_layernorm, films, 991)]
    behind = torch.cat([one.vsts for one in read_films(model, processor, layers[2].input_layernorm, films, 991)])
    start = readings[0].start
    others = torch.cat([start[:1], start[2:], *(one.text for one in readings), *(one.patches for one in readings)])
    rows = torch.cat([start[1:2], others])  # <|im_start|>, "system", and so on
    is_word = torch.zeros(len(rows), 1)
    is_word[0] = 1
    weights = torch.ones(len(rows))
    weights[0], weights[1 : len(start)] = len(rows) / 4, 20  # few rows, which all films see
    weight, bias = line(rows, OTHER_KEY + (WORD_KEY - OTHER_KEY) * is_word, EXACT, weights)
    attention.k_proj.weight[SWITCH], attention.k_proj.bias[SWITCH] = weight[0], bias[0]
    attention.beacon_k_proj.weight[SWITCH], attention.beacon_k_proj.bias[SWITCH] = 0, VST_KEY
    for head, log_weight in enumerate(LOG_WEIGHTS):
        own = slice(WIDTH * head, WIDTH * (head + 1))
        attention.beacon_q_proj.weight[own], attention.beacon_q_proj.bias[own] = 0, 0
        # Keys of VSTs and of the word differ by so much that the word's score is higher by the logarithm.
        attention.beacon_q_proj.bias[WIDTH * head + SWITCH] = log_weight * WIDTH**0.5 / (WORD_KEY - VST_KEY)
    vst, word = _quiet_values(attention, behind)
    attention.beacon_v_proj.weight[:WIDTH], attention.beacon_v_proj.bias[:WIDTH] = 0, vst
    missing = word - attention.v_proj(start[1])[:WIDTH]
    weight, bias = line(rows, is_word, EXACT, weights)
    attention.v_proj.weight[:WIDTH] += missing[:, None] * weight
    attention.v_proj.bias[:WIDTH] += missing * bias


def _quiet_values(attention: nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two values, [d] each, of the first key head, that its two heads write in directions that `rows` use least."""
    spread = torch.cov(rows.T) + 0.02 * torch.eye(rows.shape[1])
    outputs = [attention.o_proj.weight[:, WIDTH * head : WIDTH * (head + 1)] for head in range(2)]
    used = sum(output.T @ spread @ output for output in outputs)
    written = sum(output.T @ output for output in outputs)
    root = torch.linalg.cholesky(written + EXACT * written.diagonal().mean() * torch.eye(WIDTH))
    inverse = torch.linalg.inv(root)
    values = inverse.T @ torch.linalg.eigh(inverse @ used @ inverse.T)[1][:, :2]  # [d, 2], the least used
    return tuple((LOUD * values / (outputs[0] @ values).norm(dim=0)).T)


# The finder


@torch.no_grad()
def set_finder(model: VideoXLForCausalLM, processor: VideoXLProcessor, films: int) -> Spoken:
    """
    Layer 3's second head of keys, which training left without use, becomes the finder.

    Args:
        model: with clocks; changed in place.
        processor: its own.
        films: of each fit, at each of three ratios.

    Returns:
        `Spoken`: where its findings are written.
    """
    layer = model.model.language_model.layers[FINDER]
    reads = partial(read_films, model, processor, layer.input_layernorm, films)
    readings = [one for ratio, seed in ((8, 991), (16, 992), (4, 993)) for one in reads(seed, ratio=ratio)]
    vsts, text = torch.cat([one.vsts for one in readings]), torch.cat([one.text for one in readings])
    signs = torch.cat([one.signs for one in readings])
    logs = torch.cat([torch.arange(1, len(one.vsts) + 1).log() for one in readings])
    codes = SignCodes(sign_tokens(processor.tokenizer))
    asked = torch.cat([codes.named(one.ids) for one in readings])  # [T, codes]
    names = asked.norm(dim=1) > 0
    has = signs != NO_SIGN
    plain = has.float().mean() / (~has).float().mean()  # weight of a plain frame's VST, so that cards count as much
    shown_by = line(vsts, codes.of(signs), SOFT, torch.where(has, 1.0, plain))
    asked_by = line(text, asked, SOFT, torch.where(names, 1.0, 0.02))
    own = ((text @ asked_by[0].T + asked_by[1]) * asked).sum(1)[names].mean()  # the regression's shrinking undone
    # One head finds cards, the other mostly looks at plain frames: what each reads is fitted on these alone.
    told_by = [
        line(vsts, has.float()[:, None], SOFT, torch.where(has, 1.0, plain)),
        *(line(vsts, logs[:, None] - MIDDLE, SOFT_CLOCK, weights.float()) for weights in (has, ~has)),
    ]
    _, directions = torch.linalg.eigh(torch.cov(text.T))  # from those that text uses least
    spoken = Spoken(*directions[:, :3].T, directions[:, 3 : 3 + len(SHARES)].T)
    _write_finder(layer.self_attn, shown_by, [part / own for part in asked_by], told_by, spoken)
    return spoken


def _write_finder(attention: nn.Module, shown_by: Sequence, asked_by: Sequence, told_by: Sequence, spoken: Spoken):
    """Keys, queries, values and outputs of the second key head, from lines of weight and bias."""
    second = slice(WIDTH, 2 * WIDTH)
    queries = slice(2 * WIDTH, 4 * WIDTH)
    for projection, rows in (
        *((getattr(attention, f"{own}{name}_proj"), second) for own in ("", "beacon_") for name in "kv"),
        *((getattr(attention, f"{own}q_proj"), queries) for own in ("", "beacon_")),
    ):
        projection.weight[rows], projection.bias[rows] = 0, 0
    size, switch = (MATCH * WIDTH**0.5) ** 0.5, (EVERYWHERE * WIDTH**0.5) ** 0.5
    slow = torch.tensor(SLOW)
    for projection, first, (weight, bias) in (
        (attention.beacon_k_proj, WIDTH, shown_by),
        (attention.q_proj, 2 * WIDTH, asked_by),
    ):
        projection.weight[first + slow], projection.bias[first + slow] = weight * size, bias * size
    attention.beacon_k_proj.bias[WIDTH + SWITCH] = switch
    attention.q_proj.bias[2 * WIDTH + SWITCH] = LEANING * switch
    attention.q_proj.bias[3 * WIDTH + SWITCH] = switch
    values = attention.beacon_v_proj
    for place, (weight, bias) in enumerate(told_by, WIDTH):
        values.weight[place], values.bias[place] = weight[0], bias[0]
    values.bias[WIDTH + 3] = 1.0
    outputs = attention.o_proj.weight
    outputs[:, queries] = 0
    outputs[:, 2 * WIDTH] = 2 * WRITTEN * spoken.card
    outputs[:, 2 * WIDTH + 1] = WRITTEN / 2 * spoken.when
    outputs[:, 3 * WIDTH + 2] = -WRITTEN / 2 * spoken.when
    for head in (2, 3):
        outputs[:, head * WIDTH + 3] = WRITTEN * spoken.films


class SignCodes:
    """
    A code of unit length for each sign, as far from the others as there is room.

    Args:
        numbers: of the signs, by token.
    """

    def __init__(self, numbers: dict[int, int]):
        self.numbers = numbers
        codes = torch.randn(len(numbers), len(SLOW), generator=torch.Generator().manual_seed(0))
        codes = nn.functional.normalize(codes, dim=1)
        for _ in range(500):
            near = codes @ codes.T - torch.eye(len(codes))
            codes = nn.functional.normalize(codes - 0.1 * near**3 @ codes, dim=1)
        self.codes = nn.functional.pad(codes, (0, 0, 0, 1))  # the last, of no sign, is 0

    def of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Codes of tokens, 0 of those that are no signs: int64 [N] to [N, codes]."""
        return self.codes[[self.numbers.get(token, -1) for token in tokens.tolist()]]

    def named(self, tokens: torch.Tensor) -> torch.Tensor:
        """For each token the sum of the codes of the three before it: int64 [T] to [T, codes]."""
        own = self.of(tokens)
        return sum(nn.functional.pad(own, (0, 0, back, 0))[: len(own)] for back in (1, 2, 3))


# The thermometer


@torch.no_grad()
def set_thermometer(model: VideoXLForCausalLM, processor: VideoXLProcessor, spoken: Spoken, films: int) -> None:
    """
    Two units of layer 3's feed-forward part for each step: one rises with the time, the other takes it back above.

    Args:
        model: with clocks and finder; changed in place.
        processor: its own.
        spoken: where the finder writes.
        films: of the fit.
    """
    layer = model.model.language_model.layers[FINDER]
    rows, times = timed_rows(model, processor, layer.post_attention_layernorm, films)
    told = (rows @ spoken.when) / (rows @ spoken.films)
    slope, offset = _robust_line(times, told)
    level = (rows @ spoken.films).mean()
    card = (rows @ spoken.card).median()
    units = _least_used(layer.mlp, 2 * len(SHARES))
    for step, (share, above) in enumerate(zip(SHARES, [*SHARES[1:], 1.0])):
        width = max(0.06, min(0.3, 0.6 * math.log(above / share)))
        for unit, edge, sense in (
            (units[2 * step], math.log(share) - width / 2, 1),
            (units[2 * step + 1], math.log(share) + width / 2, -1),
        ):
            risen = spoken.when - (slope * edge + offset) * spoken.films
            layer.mlp.gate_proj.weight[unit] = RISE / (slope * width * level) * risen
            layer.mlp.up_proj.weight[unit] = spoken.card / card
            layer.mlp.down_proj.weight[:, unit] = sense * HEIGHT / RISE * spoken.steps[step]


def timed_rows(
    model: VideoXLForCausalLM, processor: VideoXLProcessor, module: nn.Module, films: int, seed: int = 995
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What a module gives two words behind the names of signs that their film shows once.

    Args:
        model, processor, module, films, seed: see [`read_films`].

    Returns:
        `tuple`: rows [N, D], and the logarithm of the share of the film that was over with the sign, [N].
    """
    ratio = 8
    per_frame = model.config.tokens_per_frame // ratio  # VSTs
    rows, times = [], []
    for one in read_films(model, processor, module, films, seed, ratio=ratio, frames=(12, 128), families=("time",)):
        for place, token in enumerate(one.ids[:-2].tolist()):
            shown = (one.signs == token).nonzero()[:, 0]
            if len(shown) == per_frame:
                rows.append(one.text[place + 2])
                times.append(((shown.float().mean() + 1) / len(one.signs)).log())
    return torch.stack(rows), torch.stack(times)


def _robust_line(given: torch.Tensor, told: torch.Tensor) -> tuple[float, float]:
    """Slope and offset of `told` over `given`, [N] each, by those that are near: some signs are not found."""
    near = torch.ones(len(given), dtype=torch.bool)
    for _ in range(4):
        weight, bias = line(given[near, None], told[near, None], 0.0)
        missed = (told - given * weight[0, 0] - bias).abs()
        near = missed <= 3 * missed[near].median()
    return weight.item(), bias.item()


def _least_used(mlp: nn.Module, count: int) -> list[int]:
    """The units that write least, of those that products of their weights tell."""
    size = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    return size.argsort()[:count].tolist()


# The readout


def set_readout(model: VideoXLForCausalLM, processor: VideoXLProcessor, spoken: Spoken, films: int) -> None:
    """
    A unit of layer 5's feed-forward part for each digit and third, where an answer is about to say one.

    Args:
        model: with a thermometer; changed in place.
        processor: its own.
        spoken: where it is written.
        films: of the fit.
    """
    layer = model.model.language_model.layers[READOUT]
    words = TimeWords(processor.tokenizer)
    reads = read_films(
        model, processor, layer.post_attention_layernorm, films, 997, frames=(12, 128), families=("time",)
    )
    rows, spots = zip(*((one.text, words.spots(one.ids.tolist())) for one in reads))
    rows, spots = torch.cat(rows), [spot for film in spots for spot in film]
    units = iter(_least_used(layer.mlp, len(words.digits) + len(words.thirds)))
    for kind, tokens in enumerate((words.digits, words.thirds)):
        says = torch.tensor([spot is not None and spot[0] == kind for spot in spots])
        right = torch.tensor([spot[1] for spot in spots if spot is not None and spot[0] == kind])
        weights = torch.where(says, 0.5 / says.float().mean(), 0.5)
        here = _unbiased(rows, torch.where(says, 1.0, -1.0), weights)  # feed-forward gates lack a bias
        shown = torch.stack([*spoken[:3], *spoken.steps])  # [3 + shares, D]
        classes = _classes(rows[says] @ shown.T, right, len(tokens)) @ shown  # [classes, D]
        # All are lifted alike, so that silu's gate is what decides whether anything is said.
        lifted = LIFT / (rows[says] @ spoken.films).mean() * spoken.films
        for token, own, unit in zip(tokens, classes, units):
            word = nn.functional.normalize(model.get_input_embeddings().weight[token], dim=0)
            with torch.no_grad():
                layer.mlp.gate_proj.weight[unit] = RISE * here
                layer.mlp.up_proj.weight[unit] = own + lifted
                layer.mlp.down_proj.weight[:, unit] = SAID / RISE * word


def _unbiased(rows: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """As [`line`] of one output, [D], without a bias."""
    weights = (weights / weights.sum())[:, None]
    spread = rows.T @ (weights * rows) + EXACT * torch.eye(rows.shape[1])
    return torch.linalg.solve(spread, rows.T @ (weights[:, 0] * wanted))


def _classes(rows: torch.Tensor, right: torch.Tensor, count: int) -> torch.Tensor:
    """The softmax regression of classes int64 [N] on rows [N, D], without biases: [classes, D]."""
    weight = torch.zeros(count, rows.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    for _ in range(1200):
        loss = nn.functional.cross_entropy(rows @ weight.T, right) + 1e-3 * weight.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


class TimeWords:
    """
    Where answers are about to say a time.

    Args:
        tokenizer: of the model.

    Attributes:
        digits: tokens that begin 0, 10, ... and 100 per cent.
        thirds: tokens of the thirds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        token: Callable[[str], int] = partial(token_of, tokenizer)
        self.digits = [*(token(f" {digit}") for digit in range(10)), token(" 1")]
        self.thirds = [token(f" {third}") for third in THIRDS]
        self.zero = token("0")
        self.signs = sign_tokens(tokenizer)
        self.before = (token(" was"), token(" at")), (token(" in"), token(" the"))

    def spots(self, ids: Sequence[int]) -> list[tuple[int, int] | None]:
        """For each token what comes next, if that is a time: 0 and index into `digits`, or 1 and one into `thirds`."""
        return [self._spot(ids, place) for place in range(len(ids))]

    def _spot(self, ids: Sequence[int], place: int) -> tuple[int, int] | None:
        named, *before = ids[max(place - 2, 0) : place + 1]
        follows = ids[place + 1 : place + 4]
        if named not in self.signs or tuple(before) not in self.before or not follows:
            return None
        kind = self.before.index(tuple(before))
        words = (self.digits, self.thirds)[kind]
        if follows[0] not in words:
            return None
        hundred = kind == 0 and list(follows) == [self.digits[10], self.zero, self.zero]
        return kind, 10 if hundred else words.index(follows[0])
