"""In which order rows are learned from, and what of a run a row's reading depends on."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from .curriculum import Curriculum
from .encoding import media_items

ORDERS = ("random", "sequential", "group_by_length")
MEGABATCH = 50  # updates whose rows are sorted by length together


class Ticket(NamedTuple):
    """A row to read, and when in the run."""

    index: int
    epoch: int
    max_frames: int | None


class Lessons(Dataset):
    """Rows with the `epoch` and the curriculum's `max_frames` that a [`Ticket`] carries to where they are read."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, ticket: Ticket) -> dict[str, Any]:
        row = {**self.rows[ticket.index], "epoch": ticket.epoch}
        row.setdefault("id", str(ticket.index))
        return row if ticket.max_frames is None else {**row, "max_frames": ticket.max_frames}


class TicketSampler(Sampler):
    """
    The tickets of an epoch: the same on every process, a function of seed and epoch alone.

    Args:
        rows: to be sampled.
        order: `"random"`; `"sequential"`; or `"group_by_length"`: rows of one kind (video, image, text) and of similar
            length come together.
        batch: rows of one batch on one process.
        update: rows of one update, over all batches and processes.
        seed: of the order.
        curriculum: whose `max_frames` goes by the step that a row will be in.
    """

    def __init__(self, rows: Dataset, order: str, batch: int, update: int, seed: int, curriculum: Curriculum):
        if order not in ORDERS:
            raise ValueError(f"train_sampling_strategy={order!r}: give one of {', '.join(ORDERS)}")
        self.count, self.order, self.batch, self.update = len(rows), order, batch, update
        self.seed, self.curriculum = seed, curriculum
        self.epoch, self.total_steps = 0, 1
        self.groups = row_groups(rows) if order == "group_by_length" else None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Ticket]:
        first_step = self.epoch * -(-self.count // self.update)
        for place, index in enumerate(self._order()):
            step = first_step + place // self.update
            yield Ticket(int(index), self.epoch, self.curriculum.phase(step, self.total_steps).max_frames)

    def _order(self) -> Sequence[int]:
        if self.order == "sequential":
            return range(self.count)
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.groups is None:
            return rng.permutation(self.count)
        return grouped_order(self.groups, self.batch, self.update, rng)


def row_groups(rows: Dataset) -> list[tuple[str, int]]:
    """The kind and length of each row; `length` where the row says it, otherwise the characters of its turns."""
    groups = []
    for index in range(len(rows)):
        row = rows[index]
        length = row.get("length") or sum(len(turn["value"]) for turn in row["conversations"])
        groups.append((media_items(row)[0] or "text", int(length)))
    return groups


def grouped_order(groups: Sequence[tuple[str, int]], batch: int, update: int, rng: np.random.Generator) -> list[int]:
    """
    Random batches of rows of one kind and similar length.

    Within a kind, rows are shuffled, cut into stretches of `MEGABATCH` updates and sorted by length inside these. What
    is left of a kind behind its last whole batch comes at the end.
    """
    batches, left = [], []
    for kind in sorted({kind for kind, _ in groups}):
        order = rng.permutation([index for index, group in enumerate(groups) if group[0] == kind]).tolist()
        stretch = MEGABATCH * update
        parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
        ordered = [index for part in parts for index in sorted(part, key=lambda index: -groups[index][1])]
        whole = len(ordered) - len(ordered) % batch
        batches += [ordered[start : start + batch] for start in range(0, whole, batch)]
        left += ordered[whole:]
    return [index for number in rng.permutation(len(batches)) for index in batches[number]] + left
