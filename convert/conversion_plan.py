"""What becomes of every tensor, decided and checked before a single one is read."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from videoxl.convert.weight_files import StoredTensor
from videoxl.modeling_videoxl.original_layout_videoxl import ORIGINAL_KEYS_LEFT_OUT, rename_original_key

Shape = tuple[int, ...]

VOCABULARY_TABLES = ("model.language_model.embed_tokens.weight", "lm_head.weight")
NAMES_SHOWN = 10


class ConversionError(ValueError):
    """The checkpoint's tensors are not those of a Video-XL model."""


@dataclass(frozen=True)
class TensorMove:
    """One tensor of the checkpoint: where it goes (`target` is None if nowhere), and what is to be said about it."""

    source: StoredTensor
    target: str | None
    note: str = ""


def plan_moves(
    stored: Mapping[str, StoredTensor], targets: Mapping[str, Shape], vocab_size: int, tied: bool
) -> list[TensorMove]:
    """
    Every tensor of the checkpoint with its place in the model.

    Args:
        stored: the checkpoint's tensors by name.
        targets: the shapes of the model's tensors by name; a tied LM head is not among them.
        vocab_size: the vocabulary of the published configuration; embedding and LM head must have that many rows at
            least, and may have more or fewer than the model's.
        tied: whether the LM head is the embedding.

    Raises:
        ConversionError: names the tensors that have no place, the places that stay empty, and the shapes that differ.
    """
    moves = [_move(tensor, targets, vocab_size, tied) for tensor in stored.values()]
    moved = [move for move in moves if move.target is not None]
    twice = [name for name, count in Counter(move.target for move in moved).items() if count > 1]
    problems = {
        "have no place in the model": [move.source.name for move in moved if move.target not in targets],
        "are missing from the checkpoint": sorted(set(targets) - {move.target for move in moved}),
        "are stored under two names": twice,
        "have another shape than the configuration says": [
            f"{move.source.name} {list(move.source.shape)} (expected {list(targets[move.target])})"
            for move in moved
            if move.target in targets and not _fits(move, targets[move.target], vocab_size)
        ],
    }
    found = [f"{len(names)} tensors {what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ConversionError("Not a Video-XL checkpoint in the published layout. " + " ".join(found))
    return moves


def table_of_moves(moves: list[TensorMove]) -> str:
    """The moves as lines of text, layers of the same kind together: published name, our name, how many, notes."""
    groups: Counter[tuple[str, str, str]] = Counter()
    for move in moves:
        target = "(left out)" if move.target is None else _any_layer(move.target)
        groups[_any_layer(move.source.name), target, move.note] += 1
    rows = [("published", "here", "tensors", "")]
    rows += [(name, target, str(count), note) for (name, target, note), count in sorted(groups.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows]
    return "\n".join(lines)


def _move(tensor: StoredTensor, targets: Mapping[str, Shape], vocab_size: int, tied: bool) -> TensorMove:
    target = rename_original_key(tensor.name)
    if target in targets:
        return TensorMove(tensor, target, _note_on_rows(tensor, target, targets[target], vocab_size))
    if tied and target == "lm_head.weight":
        return TensorMove(tensor, None, "tied to the embedding")
    for pattern, reason in ORIGINAL_KEYS_LEFT_OUT:
        if re.search(pattern, tensor.name):
            return TensorMove(tensor, None, reason)
    return TensorMove(tensor, target)


def _note_on_rows(tensor: StoredTensor, target: str, shape: Shape, vocab_size: int) -> str:
    if target not in VOCABULARY_TABLES or tensor.shape == shape:
        return ""
    have, rows = tensor.shape[0], shape[0]
    if have > rows:
        return f"{have - rows} rows beyond the vocabulary of {vocab_size} cut"
    return f"{rows - have} rows added for tokens that had none (mean of the others)"


def _fits(move: TensorMove, shape: Shape, vocab_size: int) -> bool:
    if move.target not in VOCABULARY_TABLES:
        return move.source.shape == shape
    return len(move.source.shape) == 2 and move.source.shape[0] >= vocab_size and move.source.shape[1] == shape[1]


def _any_layer(name: str) -> str:
    return re.sub(r"\blayers\.\d+\.", "layers.N.", name)


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more." if more > 0 else ".")
