"""The paper's ablations with the small checkpoint's recipe, shortened: `python -m videoxl.training.tiny_ablation`.

One recipe, three ways to make a film small: VSTs whose ratio is drawn for every window; VSTs at one fixed ratio; and
no VSTs, but the visual tokens of a frame pooled by the same factor. Beside them one that leaves it as large as it is.
All start from the same vision tower, and have the recipe's first two stages whole: to find the letter of what has just
been said is learned there or not at all. The stage of the longest films is left out: nobody asks about such here. Then
the needle test, and a table.
"""

import argparse
import copy
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoxl.cli import integers
from videoxl.evaluation.niah import NiahSettings, run_niah

from .run import CONFIGS, read_config
from .tiny_recipe import FINISHED, Recipe, RecipeError

FIXED = 16
WHOLE_FRAME = 8  # patches along a frame's side: pooled over all of them a frame is one token, a sixteenth
VARIANTS: dict[str, dict[str, Any]] = {
    "VSTs, ratios drawn": {},
    f"VSTs, {FIXED}x alone": {"ratios": [FIXED]},
    f"pooled {FIXED}x, no VSTs": {"ratios": [0], "pool_stride": WHOLE_FRAME},
    "no compression": {"ratios": [0], "checkpoint_windows": True},  # else its films fill 20 GB
}
STAGED = ("spelled", "seeing", "album")
WHOLE = ("words", "cards")  # stages that are not shortened
LEFT_OUT = ("longest",)


def varied(
    settings: dict[str, Any],
    share: float,
    ratios: Sequence[int] | None = None,
    pool_stride: int | None = None,
    checkpoint_windows: bool = False,
) -> dict[str, Any]:
    """
    The recipe's settings with `share` of most stages' steps behind the vision tower, and with other compression; what
    is set and not learned is left out.

    Args:
        ratios: of every stage, in place of its own.
        pool_stride: of the patches.
        checkpoint_windows: of films; memory for time.
    """
    settings = copy.deepcopy(settings)
    settings.pop("circuits", None)
    for kind in STAGED:
        settings[kind] = [stage for stage in settings[kind] if stage["name"] not in LEFT_OUT]
    for stage in (stage for kind in STAGED for stage in settings[kind]):
        part, training = 1.0 if stage["name"] in WHOLE else share, stage["training"]
        stage["steps"] = max(1, math.ceil(stage["steps"] * part))
        training["warmup_steps"] = math.ceil(training.get("warmup_steps", 0) * part)
        if ratios is not None and "ratios" in stage:
            stage["ratios"] = list(ratios)
        if checkpoint_windows and "ratios" in stage:
            training["checkpoint_windows"] = True
    if pool_stride is not None:
        settings["assembly"]["pool_stride"] = pool_stride
    return settings


def run_variants(
    settings: dict[str, Any], output: Path, vision: Path | None, share: float, seed: int
) -> dict[str, Path]:
    """
    Trains every variant; what is finished is not run again.

    Args:
        vision: folder of a finished stage `vision` of this recipe, to be used by all; trained once without it.

    Returns:
        `dict[str, Path]`: the checkpoint of each.
    """
    checkpoints = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        folder = output / f"variant-{number}"
        if vision is not None and not (folder / "vision").exists():
            shutil.copytree(vision, folder / "vision", ignore=shutil.ignore_patterns("run"))
        checkpoints[name] = Recipe(varied(settings, share, **changes), folder, seed).run()
        vision = folder / "vision"
    return checkpoints


def score(checkpoints: dict[str, Path], output: Path, frames: Sequence[int], questions: int) -> str:
    """The needle test of every variant, as a table in Markdown, written to `output/table.md` as well."""
    from transformers import pipeline

    from videoxl import TASK

    lines = ["| trained | read at | " + " | ".join(f"{count} frames" for count in frames) + " |"]
    lines.append("|---" * (2 + len(frames)) + "|")
    for number, (name, checkpoint) in enumerate(checkpoints.items()):
        ratios = (0,) if VARIANTS[name].get("ratios") == [0] else (4, 8, FIXED)
        settings = NiahSettings(frames=tuple(frames), ratios=ratios, questions=questions)
        pipe = pipeline(TASK, model=str(checkpoint))
        told, tokens = run_niah(pipe, settings, output / f"niah-{number}"), pipe.processor.tokens_per_frame
        for row in told["ratios"]:
            means = []
            for count in frames:
                scores = [cell["score"] for cell in row["cells"] if cell["frames"] == count]
                means.append(f"{100 * sum(scores) / len(scores):.1f}")
            read = f"{row['ratio']}x" if row["ratio"] else f"{tokens} token{'s'[: tokens > 1]} a frame"
            lines.append(f"| {name} | {read} | " + " | ".join(means) + " |")
    table = "\n".join(lines) + "\n"
    (output / "table.md").write_text(table)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and scores; stopped, the same command goes on."""
    parser = argparse.ArgumentParser(prog="python -m videoxl.training.tiny_ablation", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(".tiny_ablation"))
    parser.add_argument("--vision", type=Path, help="a finished stage `vision` (default: trained once)")
    parser.add_argument("--config", default=str(CONFIGS / "tiny.yaml"))
    parser.add_argument("--share", type=float, default=0.25, help="of most stages' steps (default: a quarter)")
    parser.add_argument("--frames", type=integers, default=(16, 64, 256))
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not 0 < arguments.share <= 1:
        parser.error(f"--share {arguments.share}: give a number above 0, up to 1")
    if arguments.vision is not None and not (arguments.vision / FINISHED).is_file():
        parser.error(f"--vision {arguments.vision}: no folder of a finished stage: it holds no {FINISHED}")
    try:
        settings = read_config(arguments.config)
        NiahSettings(frames=arguments.frames, questions=arguments.questions)  # before hours of training
    except (ValueError, FileNotFoundError) as wrong:
        parser.error(str(wrong))
    try:
        checkpoints = run_variants(settings, arguments.output, arguments.vision, arguments.share, arguments.seed)
        print(score(checkpoints, arguments.output, arguments.frames, arguments.questions))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except RecipeError as wrong:
        parser.error(str(wrong))
    (arguments.output / "settings.json").write_text(json.dumps({"share": arguments.share, "seed": arguments.seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
