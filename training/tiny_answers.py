"""What the widened small checkpoint says about times, orders and numbers: its answers' words, set in closed form.

Where one of them is due, the last layer adds its embedding to the row. Each is a step of a unit, see `tiny_units.py`,
that rises where three come together: a token of the answer, what the question is about, and something that was found.
Where a question is about none of the three nothing is added, and the model answers as it has learned to.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.synthetic.needles import CARDS
from videoxl.synthetic.questions import THIRDS

from . import tiny_space as at
from .tiny_space import COLON, FLAG, NEAR, NEAR_ROLE, ROLE, SIGN
from .tiny_units import NewUnits

LOUDNESS = 240.0  # of a word that is due; the rows that it is added to are some 25 to 40 long
LEANING = 25.0  # of words that something speaks for
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
        self._set_names()
        for end, about in ((".", at.INTENT), (at.INTENT_WORD[5], THIRD), ("5", PER_CENT)):
            self.say(end, about, END)
            self.say(end, about, " (", END, step=at.OPTIONS)
        self.say(" (", at.INTENT, at.LETTERS[-1])
        for letter, own in zip(at.LETTERS, at.LETTER):
            # How large a code arrives is up to the row it comes from; against the others, the last one is below 0.
            told = {other: 1.0 if other == own else -1.0 for other in at.LETTER}
            self.say(" (", at.INTENT, letter, at.LETTERS[-1], step=told, limits=(0.15, 0.3))
        self.say(FLAG[tuple(at.LETTERS)], at.INTENT, ")")

    def _set_choices(self) -> None:
        """'The first: K.', 'The last: K.', 'The first: K, middle: 7, last: star.'"""
        # A sign that the question names is due as well, as it would be behind these in other answers.
        self.say("The", (FIRST, ORDER), " first", loudness=3 * LOUDNESS)
        self.say("The", LAST, " last", loudness=3 * LOUDNESS)
        for role in ROLE:
            self.say(role, CHOICES, ":", loudness=3 * LOUDNESS)
        self.say(SIGN, (FIRST, LAST), ".")
        for near, mark in zip(NEAR_ROLE, (",", ".", ",")):
            self.say(SIGN, ORDER, mark, step=near)
        self.say(",", ORDER, " middle", step=NEAR_ROLE[0])
        self.say(",", ORDER, " last", step=NEAR_ROLE[2])

    def _set_times(self) -> None:
        """'The letter K was at 45', and 'The letter K in the last third'."""
        self.say(SIGN, THIRD, " in")
        self.say(" in", THIRD, " the")
        self._tell(" the", THIRD, [f" {third}" for third in THIRDS], at.SHARE_STEPS[9:])
        for role in ROLE:
            self.say(role, THIRD, " third")
        self.say(SIGN, PER_CENT, " was", step=NEAR["The"])
        self.say(" was", PER_CENT, " at")
        self.say(" at", PER_CENT, " 5")  # where the card was not made out
        self.say(" at", PER_CENT, "", " 5", step=at.FOUND)
        self._tell(" at", PER_CENT, [f" {tenth}" for tenth in range(10)], at.SHARE_STEPS[:9])
        self.say(SIGN, PER_CENT, "5", step=NEAR[" at"])

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
        self.say(COLON, OFTEN, numbers[0])  # where the card was not made out
        self.say(COLON, OFTEN, "", numbers[0], step=at.FOUND)
        for about in (OFTEN, MANY):
            self._tell(COLON, about, numbers, at.COUNT_STEPS)

    def _set_names(self) -> None:
        """'The letter K', where a question names it. Questions about nothing else begin by whether it was shown."""
        named = {at.ONE: 1 / self.one, **dict.fromkeys(CHOICES, -1 / (3 * self.one))}
        for kind, told in zip(CARDS[:2], at.ASKED_KIND):
            self._raise(FLAG["The"], named, 3 * LOUDNESS * self._to(f" {kind}"), told)
        shown = sum(sense * self._to(word) for word, sense in (("Yes", 1), ("No", -1), ("The", 1), ("It", -1)))
        for step, size in ((at.NAMED, -LEANING), (at.NAMED_FOUND, 2 * LEANING)):
            self._raise(FLAG["\n"], {at.ONE: 1 / self.one}, size * shown, step, without=at.INTENT)
        self._raise(FLAG["It"], {at.ONE: 1 / self.one}, LOUDNESS * self._to(" was"))

    def _tell(self, behind: str | int, about: int, words: Sequence[str], steps: Sequence[int]) -> None:
        """The word that as many steps have risen to, where a card was found."""
        self.say(behind, about, words[0], step=at.FOUND)
        for word, before, step in zip(words[1:], words, steps):
            self.say(behind, about, word, before, step)

    def say(
        self,
        behind: str | int | Sequence[int],
        about: int | Sequence[int],
        word: str,
        instead: str = "",
        step: int | Mapping[int, float] | None = None,
        loudness: float = LOUDNESS,
        limits: tuple[float, float] = (0.1, 0.3),
    ) -> None:
        """
        Adds a word, and takes another away.

        Args:
            behind: word of `DUE`, or flag, of the token behind which it is said; or several flags.
            about: what the question must be about, one of several.
            word, instead: what is said, and not said.
            step: what must have risen besides, a dimension or a sum of several.
            loudness: of the words.
            limits: between which that counts as risen.
        """
        asked = dict.fromkeys((about,) if isinstance(about, int) else about, 1 / (3 * self.one))
        to = sum(sense * loudness * self._to(said) for said, sense in ((word, 1), (instead, -1)) if said)
        flag = FLAG[behind] if isinstance(behind, str) else behind
        self._raise(flag, asked, to, step, limits)

    def _raise(
        self,
        behind: int | Sequence[int],
        asked: Mapping[int, float],
        to: torch.Tensor,
        step: int | Mapping[int, float] | None = None,
        limits: tuple[float, float] = (0.1, 0.3),
        without: Sequence[int] = (),
    ) -> None:
        """Adds `to` by as much as rows hold of what is `asked`, and `without` any of some others; see [`say`]."""
        behind = (behind,) if isinstance(behind, int) else behind
        # Where the middle one of three is due, or an order's letter, and in signs, flags' places have codes.
        coded = (COLON, FLAG[" ("], SIGN) if set(behind) & set(at.ENDS) else ()
        of = dict.fromkeys((*coded, COLON), -40 * MISSING)
        of |= dict.fromkeys(without, -MISSING) | dict.fromkeys(behind, MISSING)
        low, high = limits
        if step is None:
            of, (low, high) = {dimension: weight / MISSING for dimension, weight in of.items()}, (0.4, 0.6)
        else:
            risen = {step: 1.0} if isinstance(step, int) else step
            of = {**risen, at.ONE: -MISSING, **of}
        row = self.units.row
        self.units.step(row(of), low, high, row({at.ONE: 1.0}), row(asked), to / (high - low) / self.one, STEEP)

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
