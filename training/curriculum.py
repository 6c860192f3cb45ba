"""Ratios and lengths that change while the model learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoxl.modeling_videoxl.windows_videoxl import is_ratio

PHASE_KEYS = ("from_step", "from_fraction", "ratios", "max_frames")


@dataclass(frozen=True)
class Phase:
    """What holds from `start` on, a step or (below 1, where `of_total`) a share of all steps; None keeps the usual."""

    start: float
    of_total: bool
    ratios: tuple[int, ...] | None
    max_frames: int | None

    def first_step(self, total: int) -> int:
        """The first step of this phase in a run of `total` steps."""
        return int(self.start * total) if self.of_total else int(self.start)


class Curriculum:
    """
    The phases of a run, in order.

    Args:
        phases: dicts with `from_step` or `from_fraction` (the first phase may leave it out), `ratios` and
            `max_frames`; what a phase leaves out is as without a curriculum.

    Raises:
        ValueError: naming the phase and what is wrong with it.
    """

    def __init__(self, phases: Sequence[Mapping[str, Any]] = ()):
        self.phases = [_phase(number, phase) for number, phase in enumerate(phases)]

    def phase(self, step: int, total: int) -> Phase:
        """The phase of one of `total` steps."""
        current = Phase(0, False, None, None)
        for phase in self.phases:
            if phase.first_step(total) <= step:
                current = phase
        return current


def _phase(number: int, given: Mapping[str, Any]) -> Phase:
    where = f"curriculum, phase {number}"
    if not isinstance(given, Mapping) or set(given) - set(PHASE_KEYS):
        raise ValueError(f"{where}: a phase has {', '.join(PHASE_KEYS)}, got {given!r}")
    step, fraction = given.get("from_step"), given.get("from_fraction")
    if step is not None and fraction is not None:
        raise ValueError(f"{where}: give from_step or from_fraction")
    if step is None and fraction is None and number:
        raise ValueError(f"{where}: needs from_step or from_fraction")
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"{where}: from_fraction={fraction!r} must be at least 0 and below 1")
    if step is not None and (not isinstance(step, int) or step < 0):
        raise ValueError(f"{where}: from_step={step!r} must be a whole number of steps")
    ratios, frames = given.get("ratios"), given.get("max_frames")
    if ratios is not None and (not isinstance(ratios, (list, tuple)) or not ratios or not all(map(is_ratio, ratios))):
        raise ValueError(f"{where}: ratios={ratios!r} must be a list of compression ratios")
    if frames is not None and (not isinstance(frames, int) or frames < 1):
        raise ValueError(f"{where}: max_frames={frames!r} must be a positive integer")
    start = fraction if fraction is not None else step or 0
    return Phase(start, fraction is not None, None if ratios is None else tuple(ratios), frames)
