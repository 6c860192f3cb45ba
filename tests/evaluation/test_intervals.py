"""Wilson's interval against the equation that it solves."""

import numpy as np
import pytest

from videoxl.evaluation.intervals import scored, wilson

Z = 1.959963984540054  # 97.5 % of a normal variable lie under it


@pytest.mark.parametrize("right, total", [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (49, 50), (571, 600)])
def test_wilson_solves_its_equation(right, total):
    """The ends are the shares p that lie just z standard errors of their own from what was seen."""
    share = right / total
    ends = np.sort(np.roots([1 + Z**2 / total, -2 * share - Z**2 / total, share**2]).real)
    assert wilson(right, total) == pytest.approx(np.clip(ends, 0, 1), abs=1e-9)


def test_scores_carry_their_interval():
    assert scored(3, 4)["score"] == 0.75
    assert scored(3, 4)["interval"] == list(wilson(3, 4))


@pytest.mark.parametrize("right, total", [(0, 0), (5, 4), (-1, 4)])
def test_what_is_no_share_is_refused(right, total):
    with pytest.raises(ValueError, match=f"{right} of {total}"):
        wilson(right, total)
