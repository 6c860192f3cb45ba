"""What a run of the small checkpoint's recipe leaves for people to look at: every loss, and the curves."""

import json
from collections.abc import Sequence
from pathlib import Path

LOG_NAME, CURVES_NAME = "log.jsonl", "curves.png"


def write_record(output: Path, stages: Sequence[str], finished: str) -> None:
    """
    Writes `log.jsonl`, a line for each logged step with its `stage`, `step` and `loss`, and `curves.png`, a panel for
    each stage with its minutes.

    Args:
        output: folder of the recipe.
        stages: names of those that trained, in their order.
        finished: name of the file in which a stage tells its `seconds` and its `log`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(stages), 3), layout="constrained")
    lines = []
    for place, name in enumerate(stages):
        told = json.loads((output / name / finished).read_text())
        points = [(line["step"], line["loss"]) for line in told["log"] if "loss" in line]
        lines += [{"stage": name, "step": step, "loss": loss} for step, loss in points]
        axes = figure.add_subplot(1, len(stages), place + 1, title=f"{name}\n{told['seconds'] / 60:.0f} min")
        axes.set(xlabel="step", yscale="log", ylabel="" if place else "loss")
        axes.plot(*zip(*points), marker="." if len(points) < 30 else None)
    (output / LOG_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure.savefig(output / CURVES_NAME, dpi=80)
