"""What the widened small checkpoint says about times, orders and numbers: its answers' words, set in closed form.

Where one of them is due, the last layer adds its embedding to the row. Each is a step of a unit, see `tiny_units.py`,
that rises where three come together: a token of the answer, what the question is about, and something that was found.
Where a question is about none of the three nothing is added, and the model answers as it has learned to.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.synthetic.needles import CARDS
from videoxl.synthetic.questions import OPTION_LETTERS, THIRDS

from . import tiny_space as at
from .tiny_space import COLON, FLAG, NEAR, NEAR_ROLE, ROLE, SIGN
from .tiny_units import NewUnits

LOUDNESS = 80.0  # of a word that is due; the rows that it is added to are some 25 long
LETTERS = 10.0  # of each, where which is due is known
COMMON = 0.3  # how much of what words have in common is left in what raises one
STEEP = 400.0  # of the steps: nothing is to be left of those that do not rise
MISSING = 300.0  # more than any step is high, in `ONE`
FIRST, LAST, ORDER, OFTEN, MANY, THIRD, PER_CENT = at.INTENT
CHOICES = (FIRST, LAST, ORDER)
END = "<|im_end|>"


class Answers:
    """
    Args:
        units: of the last layer.
        model: the widened one.
        tokenizer: of the model.
        one: how large `ONE` is in text where the units read it.
    """

    def __init__(self, units: NewUnits, model: VideoXLForCausalLM, tokenizer: PreTrainedTokenizerBase, one: float):
        self.units, self.one, self.tokenizer = units, one, tokenizer
        self.towards = _towards(model)

    def set(self) -> None:
        """Sets all."""
        self.say("\n", (*CHOICES, OFTEN, THIRD, PER_CENT), "The")
        self._set_choices()
        self._set_times()
        self._set_numbers()
        self.say(".", at.INTENT, END)
        self.say(".", at.INTENT, " (", END, step=at.OPTIONS)

    def _set_choices(self) -> None:
        """'The first: K.', 'The last: K.', 'The first: K, middle: 7, last: star.'"""
        self.say("The", (FIRST, ORDER), " first")
        self.say("The", LAST, " last")
        for role in ROLE:
            self.say(role, CHOICES, ":")
        self.say(SIGN, (FIRST, LAST), ".")
        for near, mark in zip(NEAR_ROLE, (",", ".", ",")):
            self.say(SIGN, ORDER, mark, step=near)
        self.say(",", ORDER, " middle", step=NEAR_ROLE[0])
        self.say(",", ORDER, " last", step=NEAR_ROLE[2])

    def _set_times(self) -> None:
        """'The letter K was at 40', and 'The letter K in the last third.'; names are copied as in all answers."""
        self.say(SIGN, THIRD, " in")
        self.say(" in", THIRD, " the")
        self._tell(" the", THIRD, [f" {third}" for third in THIRDS], at.SHARE_STEPS[10:])
        for role in ROLE:
            self.say(role, THIRD, " third")
        self.say(SIGN, PER_CENT, " was", step=NEAR["The"])
        self.say(" was", PER_CENT, " at")
        self.say(" at", PER_CENT, " 5")  # where the card was not made out
        self.say(" at", PER_CENT, "", " 5", step=at.FOUND)
        self._tell(" at", PER_CENT, [f" {tenth}" for tenth in range(10)], at.SHARE_STEPS[:9])
        self.say(SIGN, PER_CENT, "0", step=NEAR[" at"])
        self.say(" 0", PER_CENT, END, "0", step=NEAR[" at"])
        self.say("0", PER_CENT, END)
        for zero in ("0", " 0"):
            self.say(zero, PER_CENT, " (", END, step=at.OPTIONS)
        for letter in OPTION_LETTERS:
            self.say(" (", (PER_CENT, OFTEN), letter, loudness=LETTERS)

    def _set_numbers(self) -> None:
        """'The letter K: 2.', and 'There were letters: 3.'"""
        numbers = [f" {number}" for number in range(1, at.COUNTS + 2)]
        self.say(SIGN, OFTEN, ":", step=NEAR["The"])
        self.say(SIGN, OFTEN, ".", step=NEAR[":"])
        self.say("\n", MANY, "There")
        self.say("There", MANY, " were")
        self.say(SIGN, MANY, ".")
        for kind, own, asked in zip(CARDS, at.KIND, at.ASKED_KIND):
            self.say(" were", asked, f" {kind}s")
            self.say(own, MANY, ":", ".")
        for about in (OFTEN, MANY):
            self._tell(COLON, about, numbers, at.COUNT_STEPS)

    def _tell(self, behind: str | int, about: int, words: Sequence[str], steps: Sequence[int]) -> None:
        """The word that as many steps have risen to, where a card was found."""
        self.say(behind, about, words[0], step=at.FOUND)
        for word, before, step in zip(words[1:], words, steps):
            self.say(behind, about, word, before, step)

    def say(
        self,
        behind: str | int | tuple[str, ...],
        about: int | Sequence[int],
        word: str,
        instead: str = "",
        step: int | None = None,
        loudness: float = LOUDNESS,
    ) -> None:
        """
        Adds a word, and takes another away.

        Args:
            behind: word of `DUE`, or flag, of the token behind which it is said.
            about: what the question must be about, one of several.
            word, instead: what is said, and not said.
            step: what must have risen besides.
            loudness: of the words.
        """
        flag = behind if isinstance(behind, int) else FLAG[behind]
        # Where the middle one of three is due, flags' places have codes.
        of, low, high = {COLON: -40 * MISSING} | {flag: MISSING}, 0.4, 0.6
        if step is None:
            of = {dimension: weight / MISSING for dimension, weight in of.items()}
        else:
            of, low, high = {step: 1.0, at.ONE: -MISSING, **of}, 0.1, 0.3
        asked = dict.fromkeys((about,) if isinstance(about, int) else about, 1 / (3 * self.one))
        row, size = self.units.row, loudness / (high - low) / self.one
        to = sum(sense * size * self._to(said) for said, sense in ((word, 1), (instead, -1)) if said)
        self.units.step(row(of), low, high, row({at.ONE: 1.0}), row(asked), to, STEEP)

    def _to(self, word: str) -> torch.Tensor:
        (token,) = self.tokenizer.encode(word, add_special_tokens=False)
        return self.towards[token]


def _towards(model: VideoXLForCausalLM) -> torch.Tensor:
    """
    For each word what raises its logit and hardly that of others, of unit length, [vocabulary, D]. Words that training
    never shows have much the same embedding: what all have in common is taken out.
    """
    norm = model.model.language_model.norm.weight[: at.OWN]
    table = (model.get_input_embeddings().weight[:, : at.OWN] * norm).detach()  # [vocabulary, dimensions]
    spread = table.T @ table / len(table)
    raised = torch.linalg.solve(spread + COMMON * spread.diagonal().mean() * torch.eye(at.OWN), table.T).T
    raised = nn.functional.normalize(raised, dim=1)
    return nn.functional.pad(raised, (0, at.NEW))
