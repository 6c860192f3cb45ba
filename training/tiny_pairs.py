"""Pairs of sign and colour that training never shows: the loss does not teach that they are wrong.

Of each value's eight colours training shows six. A language model that is asked for the colour of the moon's card, and
does not know it yet, gains by ruling out the two others; it learns to, and keeps it after it has learned to look. Then
it finds the moon on a blue card and cannot say so. So wherever an answer has named a sign, the colours that training
never shows it on take no part in the softmax over what comes next, nor behind a colour the signs that it never has:
nothing is learned of them there, neither that they are right nor that they are wrong. (As with the logits of a known
bias that are added in training: Clark et al., 2019, "Don't Take the Easy Way Out".)
"""

from collections.abc import Iterable

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.synthetic.needles import CARDS, COLOURS, VALUES, colours_of

from .encoding import NOTHING

EVERYTHING = 0  # the row of the table that leaves no token out


class UnshownPairs:
    """
    What answers of training never say next.

    Args:
        tokenizer: in which each sign and each colour is one token, with its space.

    Attributes:
        left_out: bool [1 + signs + colours, vocabulary]; what each row leaves out, the first nothing.

    Raises:
        ValueError: if a sign or colour is several tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        signs = {_token(tokenizer, value): (kind, value) for kind in CARDS for value in VALUES[kind]}
        colours = {_token(tokenizer, colour): colour for colour in COLOURS}
        self.signs = {token: row for row, token in enumerate(signs, 1)}
        self.colours = {token: row for row, token in enumerate(colours, 1 + len(signs))}
        self.left_out = torch.zeros(1 + len(signs) + len(colours), len(tokenizer), dtype=torch.bool)
        for sign, (kind, value) in signs.items():
            shown = colours_of("train", kind, value)
            for token, colour in colours.items():
                self.left_out[self.signs[sign], token] = colour not in shown
                self.left_out[self.colours[token], sign] = colour not in shown

    def rows(self, labels: Iterable[int]) -> list[int]:
        """For each label of a conversation the row of `left_out` that goes by what the answer has said before."""
        rows, sign, colour = [], EVERYTHING, EVERYTHING
        for label in labels:
            if label == NOTHING:
                sign = colour = EVERYTHING
            rows.append(sign or colour)
            sign, colour = self.signs.get(label, sign), self.colours.get(label, colour)
        return rows


def _token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer.encode(f" {word}", add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"the tokenizer writes {word!r} as {len(ids)} tokens: train it on more films")
    return ids[0]


def loss_without(left_out: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    The summed cross-entropy over what is not left out; a target always takes part.

    Args:
        left_out: bool [N, vocabulary].
        logits: [N, vocabulary].
        targets: int64 [N].
    """
    left_out = left_out.scatter(1, targets[:, None], False)
    return torch.nn.functional.cross_entropy(
        logits.float().masked_fill(left_out, -torch.inf), targets, reduction="sum"
    )
