"""Pictures of results. Imported where one is drawn, for matplotlib takes a second to load."""

from pathlib import Path

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from .settings import left_of_frame, ratio_way

# From missed to found: brick, sand, sea. Told apart without red and green, too, and every cell says its number.
FOUND = LinearSegmentedColormap.from_list("found", ["#8f2d1f", "#d9773f", "#f3dfa8", "#6db3a2", "#11635f"])
INK, QUIET = "#23282b", "#6b7378"
STYLES = {"multiple choice": ("#11635f", "o", "-"), "open": ("#d9773f", "s", "-")}
BASELINES = {"blind": ("--", "blind (no video)"), "majority": (":", "most frequent answer")}


def draw_heat_map(ratio: dict, summary: dict, path: str | Path) -> None:
    """
    Frames across, depth down, as PNG.

    Args:
        ratio: one of the summary's `ratios`, see `run_niah`.
        summary: of all of them.
    """
    frames, depths = summary["frames"], summary["depths"]
    cells = {(cell["frames"], cell["depth"]): cell for cell in ratio["cells"]}
    figure = Figure(figsize=(2.4 + 0.95 * max(4, len(frames)), 1.9 + 0.62 * max(3, len(depths))), dpi=150)
    axes = figure.subplots()
    figure.subplots_adjust(top=1 - 1.05 / figure.get_figheight())
    shares = [[cells[count, depth]["score"] for count in frames] for depth in depths]
    mesh = axes.pcolormesh(shares, cmap=FOUND, vmin=0, vmax=1, edgecolors="white", linewidth=2)
    for row, depth in enumerate(depths):
        for column, count in enumerate(frames):
            _write_cell(axes, column, row, cells[count, depth])
    axes.invert_yaxis()
    kept = [cells[count, depths[0]]["kept_tokens"] for count in frames]
    labels = [f"{count:,}\n({tokens:,})" for count, tokens in zip(frames, kept)]
    axes.set_xticks([column + 0.5 for column in range(len(frames))], labels)
    axes.set_yticks([row + 0.5 for row in range(len(depths))], [f"{depth:g}%" for depth in depths])
    axes.set_xlabel("frames of the film (tokens kept of it)", color=QUIET)
    axes.set_ylabel("depth of the needle", color=QUIET)
    _plain(axes)
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, aspect=18)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100%"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=QUIET, labelsize=8)
    _titles(figure, axes, _heat_map_title(ratio), *_heat_map_words(ratio, summary))
    _save(figure, path)


def _write_cell(axes, column: int, row: int, cell: dict) -> None:
    red, green, blue, _ = FOUND(cell["score"])
    colour = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.55 else INK
    low, high = cell["interval"]
    middle = column + 0.5
    axes.text(middle, row + 0.44, f"{cell['score']:.0%}", ha="center", va="center", color=colour, weight="bold")
    interval = f"{low:.0%} to {high:.0%}".replace("% to", " to")
    axes.text(middle, row + 0.76, interval, ha="center", va="center", color=colour, fontsize=6.5, alpha=0.85)


def _heat_map_title(ratio: dict) -> str:
    compression = f"{ratio['ratio']}x compression" if ratio["ratio"] else "no compression"
    return f"Needle in a haystack, {compression}"


def _heat_map_words(ratio: dict, summary: dict) -> tuple[str, str]:
    low, high = ratio["interval"]
    settings = summary["settings"]
    haystack = "drawn films" if settings["haystack"] == "drawn" else settings["haystack"].split(",")[0]
    questions = settings["questions"]
    return (
        f"mean {ratio['mean']:.1%} (95% interval {low:.1%} to {high:.1%})",
        f"{left_of_frame(ratio['ratio'], summary['tokens_per_frame'])}   ·   {haystack}   ·   {questions} "
        f"question{'' if questions == 1 else 's'} a cell, with 95% intervals",
    )


def draw_families(summary: dict, path: str | Path) -> None:
    """
    Score over compression ratio, a panel for each family, as PNG.

    Args:
        summary: see `run_families`.
    """
    families, ratios = summary["families"], summary["ratios"]
    columns = min(4, len(families) + 1)
    rows = -(-(len(families) + 1) // columns)  # one panel is the legend's
    figure = Figure(figsize=(1 + 2.75 * columns, 1.1 + 2.35 * rows), dpi=150)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    figure.subplots_adjust(top=1 - 1.05 / figure.get_figheight(), hspace=0.3, wspace=0.1)
    for axes, family in zip(grid, families):
        _draw_family(axes, family, summary["scores"], ratios)
    handles, labels = grid[0].get_legend_handles_labels()
    for place, axes in enumerate(grid):
        axes.tick_params(labelbottom=place + columns >= len(families))  # the lowest panel of each column
        axes.set_visible(place < len(families))
    corner = grid[len(families)].get_position()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(corner.x0, corner.y1),
        frameon=False,
        labelcolor=INK,
        fontsize=8,
    )
    words = (
        f"{summary['films']} films of {min(summary['frames']):,} to {max(summary['frames']):,} frames; score in "
        "per cent over the compression ratio, with its 95% interval"
    )
    _titles(figure, grid[0], "Task families", words)
    _save(figure, path)


def _draw_family(axes, family: str, scores: list[dict], ratios: list[int]) -> None:
    places = range(len(ratios))
    for form, (colour, marker, line) in STYLES.items():
        by_way = {score["way"]: score for score in scores if (score["family"], score["form"]) == (family, form)}
        if not by_way:
            continue
        read = [by_way[ratio_way(ratio)] for ratio in ratios]
        heights = [100 * score["score"] for score in read]
        low, high = ([100 * score["interval"][end] for score in read] for end in (0, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(places, heights, line, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=form)
        for way, (dashes, name) in BASELINES.items():
            height = 100 * by_way[way]["score"]
            axes.axhline(height, color=colour, linestyle=dashes, linewidth=1, alpha=0.75, label=f"{form}, {name}")
    axes.set_title(family, loc="left", fontsize=10, color=INK, weight="bold", pad=5)
    axes.set_xticks(list(places), ["none" if not ratio else f"{ratio}x" for ratio in ratios])
    axes.set_ylim(-3, 104)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(axis="y", color="#e4e7e8", linewidth=0.8)
    axes.set_axisbelow(True)
    _plain(axes)


def _plain(axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)


def _titles(figure: Figure, axes, title: str, *words: str) -> None:
    left, height = axes.get_position().x0, figure.get_figheight()
    figure.text(left, 1 - 0.32 / height, title, fontsize=13, weight="bold", color=INK)
    for line, text in enumerate(words):
        figure.text(left, 1 - (0.56 + 0.19 * line) / height, text, fontsize=8.5, color=QUIET)


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, facecolor="white", bbox_inches="tight", pad_inches=0.2)
