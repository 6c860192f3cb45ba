"""How sure a share of right answers is."""

from statistics import NormalDist

CONFIDENCE = 0.95


def wilson(right: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """
    Wilson's score interval of the share `right / total`, which stays within 0 and 1 and keeps its width at both ends.

    Raises:
        ValueError: for no answer at all, or more right ones than there are.
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"{right} of {total} answers is no share: give 0 <= right <= total, total at least 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    reach = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def scored(right: int, total: int) -> dict:
    """`questions`, `right`, `score` and its `interval`, as every summary holds them; all 0 to 1."""
    return {"questions": total, "right": right, "score": right / total, "interval": list(wilson(right, total))}
