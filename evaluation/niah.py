"""A needle in a haystack: one frame of a long film is asked for, at many lengths, depths and compression ratios."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from .answerer import Answerer
from .haystacks import Trial, Trials, content_digest, read_needles
from .intervals import scored
from .records import ResultLines, fingerprint, output_folder, write_json
from .settings import check_counts, check_drawing, check_ratios, check_shared, ordered, ratio_name

DEFAULT_QUESTIONS = 5


@dataclass(frozen=True)
class NiahSettings:
    """
    One experiment.

    Args:
        frames: lengths of the haystacks, the needle's frame included.
        depths: where the needle stands, in per cent of the film.
        ratios: compression ratios; 0 is no compression.
        haystack: any video file; None for drawn films.
        needles: folder of the user's own needles; None for drawn ones.
        seed: of films, needles and the order of options.
        questions: in each cell; None for five, or for all needles of the folder.
        answers: "free", or "letter" for the authors' way, see `ANSWER_STARTS`.

    Raises:
        ValueError: for a setting that cannot be meant.
    """

    frames: Sequence[int] = (128, 256, 512, 1024, 2048)
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    ratios: Sequence[int] = (2, 4, 8, 16)
    haystack: str | Path | None = None
    needles: str | Path | None = None
    seed: int = 0
    questions: int | None = None
    answers: str = "free"

    def __post_init__(self):
        for name in ("frames", "depths", "ratios"):
            object.__setattr__(self, name, ordered(name, getattr(self, name)))
        check_counts("frames", self.frames)
        if not all(0 <= depth <= 100 for depth in self.depths):
            raise ValueError(f"depths={list(self.depths)}: give per cent of the film, 0 to 100")
        check_shared(self)
        if self.questions is not None:
            check_counts("questions", (self.questions,))


@dataclass(frozen=True)
class _Share:
    """One line of the results: the needles of one film at one depth, read at one ratio."""

    frames: int
    film: int
    ratio: int
    depth: float


def run_niah(pipe, settings: NiahSettings, output: str | Path | None = None) -> dict:
    """
    Asks all questions that the results in `output` do not answer yet, and sums them up.

    Args:
        pipe: the pipeline of a checkpoint.
        output: folder of `results.jsonl`, `summary.json` and a heat map per ratio; by default one in the current
            folder that is named for the settings, so that a second call goes on where the first was stopped.

    Returns:
        `dict`: `mean` over all cells and its `interval`; `ratios`, each with its own and its `cells`; `seconds`;
            `files`.

    Raises:
        ValueError: for settings that the model cannot meet, or results of other settings in `output`.
    """
    check_drawing()
    answerer = Answerer(pipe, settings.answers)
    check_ratios(settings.ratios, answerer.window)
    pictures = None if settings.needles is None else read_needles(settings.needles)
    questions = settings.questions or (DEFAULT_QUESTIONS if pictures is None else len(pictures))
    identity = {
        "experiment": "niah",
        "model": fingerprint(pipe.model),
        "haystack": _file_identity(settings.haystack),
        "needles": "drawn" if pictures is None else content_digest(settings.needles),
        "seed": settings.seed,
        "questions": questions,
        "answers": settings.answers,
    }
    folder = output_folder("niah", identity, output)
    results = ResultLines(folder / "results.jsonl", identity)
    trials = Trials(pipe.processor, settings.seed, questions, settings.haystack, pictures)
    _ask_all(answerer, trials, settings, results)
    return _written(_summary(settings, results, answerer.tokens_per_frame), folder)


def _file_identity(path: str | Path | None) -> str:
    if path is None:
        return "drawn"
    if not Path(path).is_file():
        raise ValueError(f"haystack {path}: there is no such file. Give any video file, or none for drawn films.")
    return f"{Path(path).name}, {Path(path).stat().st_size} bytes"


# Asking


def _ask_all(answerer: Answerer, trials: Trials, settings: NiahSettings, results: ResultLines) -> None:
    done = {(line["frames"], line["film"], line["ratio"], line["depth"]) for line in results.lines}
    films = [(frames, film) for frames in settings.frames for film in range(trials.films)]
    shares = len(settings.ratios) * len(settings.depths)
    total = sum(frames for frames, _ in films) * shares
    with logging.tqdm(total=total, desc="Needles", unit="frame", unit_scale=True) as bar:
        for frames, film in films:
            wanted = [
                _Share(frames, film, ratio, depth)
                for ratio in settings.ratios
                for depth in settings.depths
                if (frames, film, ratio, depth) not in done
            ]
            bar.update(frames * (shares - len(wanted)))
            if wanted:
                for line in _ask_film(answerer, trials.trial(frames, film), wanted):
                    results.add(line)
                    bar.update(frames)


def _ask_film(answerer: Answerer, trial: Trial, wanted: list[_Share]) -> Iterator[dict]:
    """The film is encoded once for all ratios and depths, and at each ratio read once up to each needle."""
    clock = _Clock()
    features = answerer.features(trial.haystack.chunks())  # [F · M, D]
    places = {depth: round((trial.haystack.frames - 1) * depth / 100) for depth in {share.depth for share in wanted}}
    shown = {place: _needle_features(answerer, trial, place) for place in set(places.values())}
    common = clock.lap() / len(wanted)
    for ratio in sorted({share.ratio for share in wanted}):
        memory, read = answerer.new_memory(), 0
        for share in sorted((share for share in wanted if share.ratio == ratio), key=lambda share: share.depth):
            place = places[share.depth]
            border = answerer.last_border(place, ratio)
            answerer.extend(memory, [features[read:border]], ratio)
            read = border
            rest = features[border:], place * answerer.tokens_per_frame - border
            replies, kept = _replies(answerer, memory, rest, shown[place], trial, ratio)
            answers = [_answer(needle.question, reply) for needle, reply in zip(trial.needles, replies)]
            seconds = round(common + clock.lap(), 3)
            yield {**vars(share), "place": place, "kept": kept, "seconds": seconds, "answers": answers}


def _needle_features(answerer: Answerer, trial: Trial, place: int) -> list[torch.Tensor]:
    """The visual tokens of the frame at `place` with each needle in it, `[M, D]` each."""
    frame = trial.haystack.frame(place)
    return [answerer.features([needle.show(frame)[None]]) for needle in trial.needles]


def _replies(answerer: Answerer, memory, rest, shown, trial: Trial, ratio: int) -> tuple[list[str], dict]:
    """
    The answers to a film's questions, each from the film with just its needle, and what each memory kept of the film.

    Args:
        memory: of the film up to the window that the needle's frame begins in; left as it is.
        rest: the film's visual tokens from there on, `[n, D]`, and at which of them the needle's begin.
        shown: the needles' visual tokens, `[M, D]` each.
    """
    following, start = rest
    replies, kept = [], {}
    rows = answerer.rows_at_once(memory.get_seq_length() + len(following), ratio)
    for first in range(0, len(shown), rows):
        chosen = slice(first, first + rows)
        variants = [following.clone() for _ in shown[chosen]]
        for variant, needle in zip(variants, shown[chosen]):
            variant[start : start + len(needle)] = needle
        branch = memory.copy()
        branch.batch_repeat_interleave(len(variants))
        answerer.extend(branch, variants, ratio)
        held = branch.summary()["kept"]  # of all rows, which keep the same
        kept = {name: held[name] // len(variants) for name in ("sink", "beacons", "visual")}
        tails = [answerer.tail(needle.question, multiple_choice=True) for needle in trial.needles[chosen]]
        replies += answerer.answer(branch, tails)
    return replies, kept


def _answer(question, reply: str) -> dict:
    right = question.is_right(reply, multiple_choice=True)
    asked = {"question": question.text, "options": list(question.options), "correct": question.correct}
    return {**asked, "reply": reply, "right": right}


class _Clock:
    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


# Summing up


def _summary(settings: NiahSettings, results: ResultLines, tokens_per_frame: int) -> dict:
    ratios = []
    for ratio in settings.ratios:
        cells = [_cell(results, frames, ratio, depth) for frames in settings.frames for depth in settings.depths]
        vsts = tokens_per_frame / ratio if ratio else None
        ratios.append({"ratio": ratio, "vsts_per_frame": vsts, **_mean(cells), "cells": cells})
    every = [cell for ratio in ratios for cell in ratio["cells"]]
    return {
        **_mean(every),
        "seconds": round(sum(cell["seconds"] for cell in every), 1),
        "settings": results.settings,
        "frames": list(settings.frames),
        "depths": list(settings.depths),
        "tokens_per_frame": tokens_per_frame,
        "ratios": ratios,
    }


def _cell(results: ResultLines, frames: int, ratio: int, depth: float) -> dict:
    lines = [
        line for line in results.lines if (line["frames"], line["ratio"], line["depth"]) == (frames, ratio, depth)
    ]
    right = [answer["right"] for line in lines for answer in line["answers"]]
    return {
        "frames": frames,
        "depth": depth,
        **scored(sum(right), len(right)),
        "kept_tokens": sum(lines[0]["kept"].values()),
        "seconds": round(sum(line["seconds"] for line in lines), 3),
    }


def _mean(cells: list[dict]) -> dict:
    """
    The mean of the cells' scores. As all cells have the same number of questions it is the share of right answers, and
    has that share's Wilson interval; that is a little narrow, as the same needles are hidden at all depths.
    """
    total = scored(sum(cell["right"] for cell in cells), sum(cell["questions"] for cell in cells))
    return {"mean": total.pop("score"), **total}


def _written(summary: dict, folder: Path) -> dict:
    from .figures import draw_heat_map  # matplotlib takes a second to load

    files = [str(folder / "results.jsonl"), str(folder / "summary.json")]
    for ratio in summary["ratios"]:
        path = folder / f"heat_map_{ratio['ratio']}x.png"
        draw_heat_map(ratio, summary, path)
        files.append(str(path))
    summary = {**summary, "files": files}
    write_json(folder / "summary.json", summary)
    return summary


def niah_table(summary: dict) -> str:
    """The summary for the eye: a line for each ratio, and its weakest cell."""
    lines = []
    for ratio in summary["ratios"]:
        low, high = ratio["interval"]
        weakest = min(ratio["cells"], key=lambda cell: cell["score"])
        name = ratio_name(ratio["ratio"], summary["tokens_per_frame"])
        lines.append(
            f"{name:<24} {ratio['mean']:7.1%}  [{low:.1%} to {high:.1%}]"
            f"  weakest cell {weakest['score']:.0%} ({weakest['frames']} frames, {weakest['depth']:g}%)"
        )
    low, high = summary["interval"]
    lines.append(f"{'mean':<24} {summary['mean']:7.1%}  [{low:.1%} to {high:.1%}]  {summary['questions']} questions")
    return "\n".join([*lines, "", *summary["files"]])
