"""The plans of a call's rows: what each goes through, whose random ratios, and which rows go together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .windows_videoxl import Segment, Span


@dataclass
class RowPlan:
    """What one row of a call goes through: its tokens' columns, its visual spans, and the passes over them."""

    columns: np.ndarray  # [T], of the new columns
    spans: list[Span]
    segments: list[Segment]


def seeded_draws(ratio_seeds: torch.Tensor | Sequence[int], batch: int) -> list[Callable[[int], np.random.Generator]]:
    """
    For each row, a window's number to the generator of its ratio.

    A generator of its own for every window: what is drawn depends on the row's seed and the window alone, not on the
    windows before, on other rows, on what ran earlier or on which process it runs.

    Raises:
        ValueError: for another number of seeds than rows, or a seed that is no integer >= 0.
    """
    seeds = ratio_seeds.tolist() if isinstance(ratio_seeds, torch.Tensor) else list(ratio_seeds)
    if len(seeds) != batch or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"ratio_seeds={seeds}: give one integer >= 0 for each of the {batch} rows.")
    return [lambda window, seed=seed: np.random.default_rng((seed, window)) for seed in seeds]


def longest(plans: Sequence[RowPlan], rows: Sequence[int]) -> RowPlan:
    """The plan that rows which run together follow."""
    return max((plans[row] for row in rows), key=lambda plan: len(plan.columns))


def group_rows(plans: Sequence[RowPlan], length: int, pad_tails: bool) -> list[list[int]]:
    """
    Rows that can go through the same passes together.

    Args:
        length: columns of the call.
        pad_tails: whether rows may differ in the length of the text that ends them. Shorter ones are computed on into
            their padding, which changes nothing before it, so what is kept of them holds more than their tokens.

    Returns:
        `list[list[int]]`: without `pad_tails` all rows, or else each row alone.
    """
    if all(len(plan.columns) == length and plan.segments == plans[0].segments for plan in plans):
        return [list(range(len(plans)))]
    groups: dict[tuple, list[int]] = {}
    for row, plan in enumerate(plans):
        key = _shared_passes(plan) if pad_tails else None
        groups.setdefault((row,) if key is None else key, []).append(row)
    return list(groups.values())


def _shared_passes(plan: RowPlan) -> tuple | None:
    """What rows must have in common but for the length of their last text; None where columns are left out between."""
    columns = plan.columns
    if not len(columns) or len(columns) != columns[-1] + 1 - columns[0]:
        return None
    passes = plan.segments if plan.segments[-1].visual else plan.segments[:-1]
    return int(columns[0]), *passes
