"""What modules of the small language model give while it reads films spelled in words, and lines fitted to that."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.processing.processing_videoxl import VideoXLProcessor
from videoxl.synthetic.needles import CARDS, VALUES

from .tiny_data import TaskRows
from .tiny_words import SpelledCollator, bags

NO_SIGN = -1  # a frame's VST without a card


class Reading(NamedTuple):
    """
    What a module gives while the model reads one film, of V VSTs, and T tokens of text behind it.

    Args:
        start: [P, D], of the prompt before the film.
        vsts: [V, D].
        patches: [N, D], of some visual tokens.
        text: [T, D].
        ids: int64 [T].
        signs: int64 [V], the sign's token where the VST's frame shows a card, else `NO_SIGN`.
    """

    start: torch.Tensor
    vsts: torch.Tensor
    patches: torch.Tensor
    text: torch.Tensor
    ids: torch.Tensor
    signs: torch.Tensor


@torch.no_grad()
def read_films(
    model: VideoXLForCausalLM,
    processor: VideoXLProcessor,
    module: nn.Module,
    films: int,
    seed: int,
    *,
    ratio: int = 8,
    frames: tuple[int, int] = (8, 128),
    families: Sequence[str] = ("retrieval", "time"),
) -> Iterator[Reading]:
    """
    What a module of the language model gives for training films spelled in words, film by film.

    Args:
        model, processor: of the small checkpoint.
        module: whose outputs have a row for each token.
        films, seed, frames, families: of the films and what is asked of them, see [`TaskRows`].
        ratio: at which they are read.
    """
    rows = TaskRows(films, 1, frames, 8, seed, families=families, captions=0.2)
    collate = SpelledCollator(processor, max_frames=frames[1])
    signs = sign_tokens(processor.tokenizer)
    tokens = model.config.tokens_per_frame
    passes: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, given, output: passes.append(output[0].clone()))
    try:
        for row in map(rows.__getitem__, range(films)):
            batch = collate([row])
            (film,) = batch["films"]
            sent = bags(film, model.get_input_embeddings().weight).repeat_interleave(tokens, 0)
            passes.clear()
            model(batch["input_ids"], mm_encoder_outputs={"video": [sent]}, compression_ratio=ratio)
            start, *windows, text = passes
            seen = torch.cat([window.unflatten(0, (-1, ratio + 1)) for window in windows])  # [V, ratio + 1, D]
            shown = [next((word for word in words if word in signs), NO_SIGN) for words in film.tolist()]
            yield Reading(
                start,
                seen[:, -1],
                seen[::7, 0],
                text,
                batch["input_ids"][0, -len(text) :],
                torch.tensor(shown).repeat_interleave(tokens // ratio),
            )
    finally:
        hook.remove()


def sign_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """The tokens of all that cards show, numbered."""
    values = [value for kind in CARDS for value in VALUES[kind]]
    return {token_of(tokenizer, f" {value}"): number for number, value in enumerate(values)}


def token_of(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """
    Of a word that is one token.

    Raises:
        ValueError: where it is several.
    """
    (token,) = tokenizer.encode(word, add_special_tokens=False)
    return token


def line(
    rows: torch.Tensor, wanted: torch.Tensor, penalty: float, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The ridge regression of `wanted` on `rows`; the bias is not penalized.

    Args:
        rows: [N, D].
        wanted: [N, K].
        penalty: on squared weights, beside the mean squared error.
        weights: [N], of the rows; by default all count alike.

    Returns:
        `tuple`: weight [K, D] and bias [K], as a linear layer has them.
    """
    weights = torch.ones(len(rows)) if weights is None else weights
    weights = (weights / weights.sum()).double()[:, None]
    rows, wanted = rows.double(), wanted.double()
    middle, level = (weights * rows).sum(0), (weights * wanted).sum(0)
    rows = rows - middle
    spread = rows.T @ (weights * rows) + penalty * torch.eye(rows.shape[1], dtype=rows.dtype)
    weight = torch.linalg.solve(spread, rows.T @ (weights * (wanted - level))).T
    return weight.float(), (level - weight @ middle).float()
