"""Teaches the small checkpoint when cards are shown, in which order and how often, without training: it is set.

Training alone, with thousands of questions, taught weights of this size nothing of the three, and heads that were set
among the old ones were drowned by what those write. So the model is widened (`tiny_growth.py`), and what it has not
learned is set into what nothing else uses: a VST's sign without noise, clocks, ranks and counts (`tiny_heads.py`,
`tiny_units.py`, places in `tiny_space.py`). Only one thing is fitted: which sign a VST's frame shows, by a regression
on what the first layer's VSTs hold. Answers that say what was found are set, too (`tiny_choices.py`, and word by word
`tiny_answers.py`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.processing.processing_videoxl import VideoXLProcessor
from videoxl.synthetic.needles import CARDS, COLOURS
from videoxl.synthetic.tasks import draw_sample

from . import tiny_choices, tiny_heads, tiny_units
from . import tiny_space as at
from .tiny_answers import Answers
from .tiny_data import turns
from .tiny_growth import widened
from .tiny_heads import SIZE, NewHeads, Sizes
from .tiny_parts import PLAIN_ATTENTION
from .tiny_units import FIRST_UNIT, UNITS, NewUnits

LAYERS, OLD_HEADS, OLD_KEY_HEADS = 6, 4, 2
NAMED = 80.0  # of the last norm, where answers name what was chosen
FILMS, FRAMES = 240, 36  # of the fit
FILM_RATIOS = (2, 4, 8, 8, 16, 12)
STEPS, BATCH, RATE, DECAY = 1500, 4096, 0.02, 1e-2
MARGIN, SHOWN = 2.0, 8.0  # of the fit; how much a sign that is shown counts beside one that is not


class Film(NamedTuple):
    """
    Frames of an album, and what is said behind them.

    Args:
        ids: int64 [T].
        sent: [frames · M, D].
        shown: int64 [frames, 2], the sign and the colour that each shows, or -1.
    """

    ids: torch.Tensor
    sent: torch.Tensor
    shown: torch.Tensor


class Circuits:
    """
    Args:
        model: a small checkpoint as the albums' stages leave it.
        processor: its own.
        sent: what stands for the frames of an album, [pages, M, D]; what VSTs hold is fitted to films of them.
        signs, colours: int64 [pages], which sign each shows, in which colour; -1 for none: see [`shown_by`].
        films: of the fit.

    Raises:
        ValueError: for a model of other heads or layers.
    """

    def __init__(
        self,
        model: VideoXLForCausalLM,
        processor: VideoXLProcessor,
        sent: torch.Tensor,
        signs: torch.Tensor,
        colours: torch.Tensor,
        films: int = FILMS,
    ):
        text = model.config.text_config
        has = (text.hidden_size, text.num_attention_heads, text.num_key_value_heads, text.num_hidden_layers)
        if has != (at.OWN, OLD_HEADS, OLD_KEY_HEADS, LAYERS) or text.intermediate_size != FIRST_UNIT:
            raise ValueError(
                f"the model has (dimensions, heads, heads of keys, layers) = {has}, {text.intermediate_size} units: "
                f"circuits are for {(at.OWN, OLD_HEADS, OLD_KEY_HEADS, LAYERS)} and {FIRST_UNIT}"
            )
        self.tokenizer, self.films = processor.tokenizer, films
        self.signs, self.colours = signs, colours
        self.sent = nn.functional.pad(sent.float(), (0, at.NEW))  # [pages, M, D]
        self.model = widened(
            model, at.OWN + at.NEW, at.HEADS // at.KEY_HEADS, at.KEY_HEADS, UNITS, attention=PLAIN_ATTENTION
        ).eval()
        self.layers = self.model.model.language_model.layers
        self.texts = self._ids(_said())

    def set(self) -> VideoXLForCausalLM:
        """Sets all, and gives the model."""
        mark_words(self.model, self.tokenizer)
        tiny_heads.set_first_clocks(self._heads(0))
        self._set_signs()
        one = self._measured(self.layers[1].input_layernorm)
        tiny_heads.set_flags(self._heads(1), one)
        one = self._measured(self.layers[2].input_layernorm)
        tiny_heads.set_ranks(self._heads(2), one.card, one.text)
        tiny_units.set_ranks(self._units(2), self._measured(self.layers[2].post_attention_layernorm).mark)
        one = self._measured(self.layers[3].input_layernorm)
        tiny_heads.set_finders(self._heads(3), one.sign, one.card, one.naming)
        units, one = self._units(3), self._measured(self.layers[3].post_attention_layernorm)
        tiny_units.set_products(units, one.text)
        tiny_units.set_even(units, one.naming)
        tiny_choices.set_order(self._heads(4), self._measured(self.layers[4].input_layernorm).naming)
        tiny_units.set_steps(self._units(4), self._measured(self.layers[4].post_attention_layernorm).text)
        tiny_choices.set_choices(self._heads(5), self._measured(self.layers[5].input_layernorm).naming)
        with torch.no_grad():
            self.model.model.language_model.norm.weight[list(at.CODE)] = NAMED
        text = self._measured(self.layers[5].post_attention_layernorm).text
        Answers(self._units(5), self.model, self.tokenizer, text).set()
        return self.model

    def _heads(self, number: int) -> NewHeads:
        return NewHeads(self.model, number, self.texts[:2])

    def _units(self, number: int) -> NewUnits:
        return NewUnits(self.layers[number].mlp)

    def _ids(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _films(self, count: int, seed: int) -> Iterator[Film]:
        """Films of which every other frame shows a card."""
        rng = np.random.default_rng(seed)
        tokens = self.sent.shape[1]
        pages = [(self.signs < 0).nonzero()[:, 0].numpy(), (self.signs >= 0).nonzero()[:, 0].numpy()]
        begun = len(self._ids(BEGIN))
        start, behind = self.texts[:begun], self.texts[begun:]
        video = torch.full((FRAMES * tokens,), self.model.config.video_token_id)
        for _ in range(count):
            chosen = [int(rng.choice(pages[int(rng.integers(2))])) for _ in range(FRAMES)]
            shown = torch.stack([self.signs[chosen], self.colours[chosen]], 1)
            yield Film(torch.cat([start, video, behind]), self.sent[chosen].flatten(0, 1), shown)

    @torch.no_grad()
    def _read(self, module: nn.Module, film: Film, ratio: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a module gives: for VSTs [V, D], with what they show, int64 [V, 2], and for the text behind, [T, D]."""
        passes: list[torch.Tensor] = []
        hook = module.register_forward_hook(lambda module, given, output: passes.append(output[0]))
        try:
            self.model(film.ids[None], mm_encoder_outputs={"video": [film.sent]}, compression_ratio=ratio)
        finally:
            hook.remove()
        _, *windows, text = passes
        vsts = torch.cat([window[ratio :: ratio + 1] for window in windows])
        ends = torch.arange(1, len(vsts) + 1) * ratio - 1  # windows are multiples of every ratio
        return vsts, film.shown[ends // self.sent.shape[1]], text

    def _measured(self, module: nn.Module) -> Sizes:
        read = [self._read(module, film, 8) for film in self._films(4, seed=1)]
        vsts, shown, text = (torch.cat(part) for part in zip(*read))
        cards = vsts[shown[:, 0] >= 0]
        naming, begins, letters, colons, roles = (
            text[:, flags].sum(1) > 0.5 * text[:, at.ONE]
            for flags in ([at.SIGN], [at.FLAG["The"]], list(at.LETTER), [at.COLON], list(at.ROLE))
        )
        answers = naming[2:] & (begins[1:-1] | begins[:-2])
        return Sizes(
            cards[:, at.SIGN].median().item(),
            cards[:, at.ONE].mean().item(),
            cards[:, at.IS_VST].mean().item(),
            text[naming, at.ONE].mean().item(),
            text[2:][answers, at.ONE].min().item(),
            text[begins, at.ONE].min().item(),
            text[letters, at.ONE].mean().item(),
            text[:-1][roles[:-1] & colons[1:], at.ONE].mean().item(),
            text[:, at.ONE].mean().item(),
        )

    def _set_signs(self) -> None:
        module = self.layers[0].post_attention_layernorm
        read = [
            self._read(module, film, FILM_RATIOS[number % len(FILM_RATIOS)])[:2]
            for number, film in enumerate(self._films(self.films, seed=0))
        ]
        rows, shown = (torch.cat(part) for part in zip(*read))
        one, cards = rows[:, at.ONE].mean(), shown[:, 0] >= 0
        weights, biases = fitted(rows[:, : at.OWN] / rows[:, at.ONE, None] * one, shown[:, 0], shown[:, 1])
        tiny_units.set_signs(self._units(0), weights, biases, one.item(), rows[cards, at.ONE].mean().item())


def shown_by(frames: Sequence[tuple[str, str, str] | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs and colours of frames whose kind, value and colour are told; int64 [frames] each, -1 for none."""
    signs, colours = ({name: number for number, name in enumerate(names)} for names in (at.SIGNS, COLOURS))
    told = [(signs.get(one[:2], -1), colours.get(one[2], -1)) if one else (-1, -1) for one in frames]
    shown = torch.tensor([(sign, colour if sign >= 0 else -1) for sign, colour in told])
    return shown[:, 0], shown[:, 1]


BEGIN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


def _said() -> str:
    """What rows are measured on: a chat's beginning, and behind the film questions with answers that name signs."""
    rng = np.random.default_rng(0)
    asked = [
        draw_sample("train", number, 64, family, 3).questions for number, family in enumerate(("time", "ordering"))
    ]
    told = turns([question for some in asked for question in some], rng, "", ("open", "words, then letter"))
    behind = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n"
    return BEGIN + "".join(turn["value"] + behind[number % 2] for number, turn in enumerate(told))


@torch.no_grad()
def mark_words(model: VideoXLForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Embeddings tell in new dimensions what matters: signs by codes, words that questions and answers turn on by flags.

    Raises:
        ValueError: if one of the words is several tokens.
    """

    def rows(*words: str) -> list[int]:
        ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
        if several := [word for word, own in zip(words, ids) if len(own) != 1]:
            raise ValueError(f"the tokenizer writes {several} as several tokens: train it on more films")
        return [own[0] for own in ids]

    table = model.get_input_embeddings().weight
    table[:, at.ONE] = SIZE
    of_signs, of_roles = at.codes()
    for (kind, value), code in zip(at.SIGNS, of_signs):
        (row,) = rows(f" {value}")
        table[row, list(at.CODE)] = SIZE * code
        table[row, [at.SIGN, at.ASKED_KIND[CARDS.index(kind)]]] = SIZE
    for word, code in zip(at.ROLES, of_roles):
        table[rows(word)[0], list(at.CODE)] = SIZE * code
    letters = torch.eye(len(at.LETTER))
    for letter, code in zip(at.LETTERS, [*letters, letters.mean(0)]):
        table[rows(letter)[0], list(at.LETTER)] = SIZE * code
    for kind, dimension in zip(CARDS, at.KIND):
        (row,) = rows(f" {kind}s")
        table[row, [dimension, at.SIGN]] = SIZE
    flags = {at.SINK: ("system",), at.USER: ("user",), at.COLON: (":",), at.OPTION: ("(",)}
    flags |= {at.NOTHING_ASKED: at.NO_INTENTS}
    flags |= {flag: (word,) if isinstance(word, str) else word for word, flag in at.FLAG.items()}
    flags |= {dimension: (word,) for dimension, word in zip(at.ROLE, at.ROLES)}
    flags |= dict(zip(at.INTENT_WORD, at.INTENTS))
    for dimension, words in flags.items():
        table[rows(*words), dimension] = SIZE
    model.model.language_model.beacon_embed_tokens.weight[0, [at.ONE, at.IS_VST]] = SIZE


def without_colours(rows: torch.Tensor, signs: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """
    What takes out of rows where their colour puts them, if sign and colour of a card simply add up, [D, D].

    Training shows a sign in six of eight colours; a line that leans on colours fails on the others.

    Args:
        rows: [N, D].
        signs, colours: int64 [N], -1 for none.
    """
    cards = signs >= 0
    told = [nn.functional.one_hot(signs[cards], len(at.SIGNS)), nn.functional.one_hot(colours[cards], len(COLOURS))]
    told = torch.cat(told, 1).to(rows.dtype)  # [cards, signs + colours]
    spread = told.T @ told + 1e-3 * torch.eye(told.shape[1])
    by_colour = torch.linalg.solve(spread, told.T @ rows[cards])[len(at.SIGNS) :]  # [colours, D]
    directions = torch.linalg.qr((by_colour - by_colour.mean(0)).T)[0][:, : len(COLOURS) - 1]
    return torch.eye(rows.shape[1]) - directions @ directions.T


def fitted(rows: torch.Tensor, signs: torch.Tensor, colours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Lines that tell each sign from all others, and from none, by a margin, whatever its colour.

    Args:
        rows: [N, D].
        signs, colours: int64 [N], -1 for none.

    Returns:
        `tuple`: weights [signs, D] and biases [signs].
    """
    colourless = without_colours(rows, signs, colours)
    rows = rows @ colourless
    weights = torch.zeros(len(at.SIGNS), rows.shape[1], requires_grad=True)
    biases = torch.full((len(at.SIGNS),), -MARGIN, requires_grad=True)
    optimizer = torch.optim.Adam([weights, biases], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.005, STEPS)
    shown = nn.functional.one_hot(signs + 1, len(at.SIGNS) + 1)[:, 1:].float()
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        drawn = torch.randint(len(rows), (BATCH,), generator=generator)
        told, wanted = rows[drawn] @ weights.T + biases, shown[drawn]
        missed = SHOWN * wanted * (MARGIN - told).relu() ** 2 + (1 - wanted) * (told + MARGIN).relu() ** 2
        loss = missed.sum(1).mean() + DECAY * weights.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weights.detach() @ colourless, biases.detach()
