"""From the passes' outputs back to the columns of the input."""

from dataclasses import dataclass, field

import numpy as np
import torch


def wanted_columns(logits_to_keep: int | torch.Tensor, batch: int, length: int) -> np.ndarray:
    """
    The columns whose output is asked for, `[B, length]`.

    Args:
        logits_to_keep: 0 for all, n for the last n, a tensor of columns, or a boolean `[B, length]`.
    """
    wanted = np.zeros((batch, length), bool)
    if isinstance(logits_to_keep, int):
        wanted[:, -logits_to_keep:] = True  # -0 is all of them
    elif logits_to_keep.dtype == torch.bool:
        wanted[:] = logits_to_keep.to("cpu").numpy()
    else:
        wanted[:, logits_to_keep.to("cpu").numpy()] = True
    return wanted


@dataclass
class GroupOutput:
    """Output of the rows `rows`, at the columns asked for by any of them."""

    rows: list[int]
    columns: list[np.ndarray] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)  # [b, n, D] each
    states: list[tuple] = field(default_factory=list)

    def add(self, columns: np.ndarray, asked: np.ndarray, hidden: torch.Tensor, states: tuple | None) -> None:
        """Takes up a pass over `columns`, of which those `asked` for are kept."""
        if not asked.all():
            index = np.flatnonzero(asked)
            columns, run = columns[index], len(index) == index[-1] - index[0] + 1
            chosen = slice(int(index[0]), int(index[-1]) + 1) if run else index.tolist()
            hidden = hidden[:, chosen]
        self.columns.append(columns)
        self.hidden.append(hidden)
        self.states.append(states)

    def joined(self, layer: int | None = None) -> tuple[np.ndarray, torch.Tensor]:
        """All columns, and the output at them or a layer's hidden states, `[b, n, D]`."""
        parts = self.hidden if layer is None else [states[layer] for states in self.states]
        return np.concatenate(self.columns), parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def gather_columns(
    outputs: list[GroupOutput], batch: int, columns: np.ndarray, empty: torch.Tensor, layer: int | None = None
) -> torch.Tensor:
    """
    Output at the columns that are true in `columns` `[T]`, for every row of the batch; zeros at padding.

    Args:
        empty: `[0, D]`, what the zeros are like where no pass gave any output.
        layer: a layer's hidden states in place of the output.
    """
    asked = np.flatnonzero(columns)
    rows: list[torch.Tensor | None] = [None] * batch
    for output in outputs:
        if not output.columns:
            continue
        present, hidden = output.joined(layer)
        if len(outputs) == 1 and np.array_equal(present, asked):
            return hidden
        keep = np.isin(present, asked)
        where = np.searchsorted(asked, present[keep])
        chosen = hidden if keep.all() else hidden[:, np.flatnonzero(keep).tolist()]
        for index, row in enumerate(output.rows):
            placed = hidden.new_zeros(len(asked), hidden.shape[-1])
            placed[where.tolist()] = chosen[index]
            rows[row] = placed
    template = next((row for row in rows if row is not None), empty.new_zeros(len(asked), empty.shape[-1]))
    return torch.stack([torch.zeros_like(template) if row is None else row for row in rows])


def gather_rows(outputs: list[GroupOutput], wanted: torch.Tensor) -> torch.Tensor:
    """Output at the places that are true in `wanted` `[B, T]`, packed row after row, `[1, n, D]`."""
    wanted = wanted.to("cpu").numpy()
    parts, rows = [], []
    for output in outputs:
        if not output.columns:
            continue
        present, hidden = output.joined()
        indices, places = np.nonzero(wanted[np.ix_(output.rows, present)])
        parts.append(hidden[torch.from_numpy(indices), torch.from_numpy(places)])
        rows.append(np.asarray(output.rows)[indices])
    packed = parts[0] if len(parts) == 1 else torch.cat(parts)
    order = np.argsort(np.concatenate(rows), kind="stable")
    in_order = (order == np.arange(len(order))).all()
    return (packed if in_order else packed[torch.from_numpy(order)])[None]
