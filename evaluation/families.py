"""Scores over the families of tasks, at every compression ratio, beside what is scored without seeing the films."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from transformers.utils import logging

from videoxl.synthetic.questions import Question
from videoxl.synthetic.tasks import FAMILIES, SHORTEST_ASKED, Sample, draw_sample

from .answerer import Answerer
from .haystacks import NUMBERS_PER_SEED
from .intervals import scored
from .records import ResultLines, fingerprint, output_folder, write_json
from .settings import check_counts, check_drawing, check_ratios, check_shared, ordered, ratio_name, ratio_way

FORMS = {"open": False, "multiple choice": True}
BLIND, MAJORITY = "blind", "majority"  # ways to answer without the film, beside the ratios
QUESTIONS_PER_FILM = 3  # at most; some families have only one to ask
TRAINING_FILMS, TRAINING_FRAMES = 300, 256  # of each family, whose answers are counted for the majority


@dataclass(frozen=True)
class FamilySettings:
    """
    One experiment.

    Args:
        families: of tasks. Each film is drawn for one of them, in turn, so that what is asked for is there as often as
            not, and is asked up to three of its questions, openly and as multiple choice.
        frames: lengths of the films, in turn.
        films: how many, all families and lengths together.
        ratios: compression ratios; 0 is no compression.
        seed: of the films.
        answers: to multiple choice, "free", or "letter" for the authors' way, see `ANSWER_STARTS`.

    Raises:
        ValueError: for a setting that cannot be meant.
    """

    families: Sequence[str] = FAMILIES
    frames: Sequence[int] = (64, 128, 256, 512, 1024)
    films: int = 300
    ratios: Sequence[int] = (0, 2, 4, 8, 12, 16)
    seed: int = 0
    answers: str = "free"

    def __post_init__(self):
        unknown = [family for family in self.families if family not in FAMILIES]
        if unknown or not self.families:
            raise ValueError(f"families={list(self.families)}: give some of {FAMILIES}")
        object.__setattr__(self, "families", tuple(family for family in FAMILIES if family in self.families))
        object.__setattr__(self, "frames", ordered("frames", self.frames))
        object.__setattr__(self, "ratios", ordered("ratios", self.ratios))
        check_counts("frames", self.frames, least=SHORTEST_ASKED)
        check_counts("films", (self.films,))
        check_shared(self)

    def sample(self, film: int) -> Sample:
        """Film number `film`, with its questions."""
        turn, family = divmod(film, len(self.families))
        frames = self.frames[turn % len(self.frames)]
        number = self.seed * NUMBERS_PER_SEED + film
        return draw_sample("test", number, frames, self.families[family], QUESTIONS_PER_FILM)


@dataclass(frozen=True)
class _Asked:
    """A question in one of the two forms."""

    question: Question
    form: str

    @property
    def prompt(self) -> tuple[Question, bool]:
        """The question, and whether its options are shown."""
        return self.question, FORMS[self.form]

    def line(self, reply: str) -> dict:
        """As the results hold it."""
        right = self.question.is_right(reply, FORMS[self.form])
        truth = self.question.reply(FORMS[self.form])
        asked = {"family": self.question.family, "form": self.form, "question": self.question.prompt(FORMS[self.form])}
        return {**asked, "truth": truth, "reply": reply, "right": right}


def run_families(pipe, settings: FamilySettings, output: str | Path | None = None) -> dict:
    """
    Asks all questions that the results in `output` do not answer yet, and sums them up.

    Args:
        pipe: the pipeline of a checkpoint.
        output: folder of `results.jsonl`, `summary.json`, `table.md` and `families.png`; by default one in the current
            folder that is named for the settings, so that a second call goes on where the first was stopped.

    Returns:
        `dict`: `scores`, a list over family, form and way (a ratio, "blind" or "majority"), each with its interval;
        `mean` over families and forms by way; `table` as markdown; `files`.

    Raises:
        ValueError: for settings that the model cannot meet, or results of other settings in `output`.
    """
    check_drawing()
    answerer = Answerer(pipe, settings.answers)
    check_ratios(settings.ratios, answerer.window)
    identity = {
        "experiment": "families",
        "model": fingerprint(pipe.model),
        "families": list(settings.families),
        "frames": list(settings.frames),
        "seed": settings.seed,
        "answers": settings.answers,
    }
    folder = output_folder("families", identity, output)
    results = ResultLines(folder / "results.jsonl", identity)
    _ask_all(answerer, settings, results)
    return _written(_summary(settings, results, answerer.tokens_per_frame), folder)


# Asking


def _ask_all(answerer: Answerer, settings: FamilySettings, results: ResultLines) -> None:
    done = {(line["film"], line["way"]) for line in results.lines}
    ways = [BLIND, *(ratio_way(ratio) for ratio in settings.ratios)]
    with logging.tqdm(total=settings.films * len(ways), desc="Films", unit="reading") as bar:
        for film in range(settings.films):
            wanted = [way for way in ways if (film, way) not in done]
            bar.update(len(ways) - len(wanted))
            if wanted:
                for way, answers in _ask_film(answerer, settings, settings.sample(film), wanted):
                    results.add({"film": film, "way": way, "answers": answers})
                    bar.update(1)


def _ask_film(
    answerer: Answerer, settings: FamilySettings, sample: Sample, wanted: list[str]
) -> Iterator[tuple[str, list[dict]]]:
    """The film is encoded once for all ratios, and read once at each for all of its questions."""
    asked = [_Asked(question, form) for question in sample.questions for form in FORMS]
    if BLIND in wanted:
        replies = answerer.answer_blind([answerer.blind_prompt(*one.prompt) for one in asked])
        yield BLIND, [one.line(reply) for one, reply in zip(asked, replies)]
    ratios = [ratio for ratio in settings.ratios if ratio_way(ratio) in wanted]
    if not ratios:
        return
    tails = [answerer.tail(*one.prompt) for one in asked]
    features = answerer.features(sample.film.chunks())  # [F · M, D]
    for ratio in ratios:
        memory = answerer.new_memory()
        answerer.extend(memory, [features], ratio)
        rows = answerer.rows_at_once(len(features), ratio)
        replies = []
        for start in range(0, len(tails), rows):
            chosen = tails[start : start + rows]
            copies = memory.copy()
            copies.batch_repeat_interleave(len(chosen))
            replies += answerer.answer(copies, chosen)
        yield ratio_way(ratio), [one.line(reply) for one, reply in zip(asked, replies)]


# What can be had without a film


class Majority:
    """What most answers of the training split are, family by family."""

    def __init__(self, families: Sequence[str], films: int = TRAINING_FILMS):
        self.answers: dict[str, Counter] = {family: Counter() for family in families}
        self.options: dict[str, Counter] = {family: Counter() for family in families}
        for family in families:
            for film in range(films):
                for question in draw_sample("train", film, TRAINING_FRAMES, family, QUESTIONS_PER_FILM).questions:
                    self.answers[family][question.answer] += 1
                    self.options[family][question.options[question.correct]] += 1

    def reply(self, question: Question, multiple_choice: bool) -> str:
        """The family's most frequent answer; with options, the one of them that was right most often."""
        if not multiple_choice:
            ((answer, _),) = self.answers[question.family].most_common(1)
            return answer
        counts = [self.options[question.family][option] for option in question.options]
        guess = Question("", "", "", question.options, counts.index(max(counts)))
        return guess.letter_reply()


# Summing up


def _summary(settings: FamilySettings, results: ResultLines, tokens_per_frame: int) -> dict:
    right: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    ways = [*(ratio_way(ratio) for ratio in settings.ratios), BLIND]
    for line in results.lines:
        if line["film"] < settings.films and line["way"] in ways:
            for answer in line["answers"]:
                right[answer["family"], answer["form"], line["way"]].append(answer["right"])
    majority = Majority(settings.families)
    for film in range(settings.films):
        for question in settings.sample(film).questions:
            for form, multiple_choice in FORMS.items():
                reply = majority.reply(question, multiple_choice)
                right[question.family, form, MAJORITY].append(question.is_right(reply, multiple_choice))
    ways.append(MAJORITY)
    families = settings.families[: settings.films]  # each has a film
    scores = [
        {"family": family, "form": form, "way": way, **_scored(right[family, form, way])}
        for family in families
        for form in FORMS
        for way in ways
    ]
    means = {way: fmean(score["score"] for score in scores if score["way"] == way) for way in ways}
    return {
        "mean": means,
        "settings": results.settings,
        "films": settings.films,
        "frames": list(settings.frames),
        "ratios": list(settings.ratios),
        "tokens_per_frame": tokens_per_frame,
        "families": list(families),
        "scores": scores,
    }


def _scored(right: list[bool]) -> dict:
    return scored(sum(right), len(right))


def _written(summary: dict, folder: Path) -> dict:
    from .figures import draw_families  # matplotlib takes a second to load

    table = families_table(summary)
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    draw_families(summary, folder / "families.png")
    names = ("results.jsonl", "summary.json", "table.md", "families.png")
    summary = {**summary, "table": table, "files": [str(folder / name) for name in names]}
    write_json(folder / "summary.json", summary)
    return summary


def families_table(summary: dict) -> str:
    """A markdown table: a row for each family and form, a column for each ratio and baseline; per cent, intervals."""
    ways = list(summary["mean"])
    by_place = {(score["family"], score["form"], score["way"]): score for score in summary["scores"]}
    names = {ratio_way(ratio): ratio_name(ratio, summary["tokens_per_frame"]) for ratio in summary["ratios"]}
    names |= {BLIND: "blind (no video)", MAJORITY: "most frequent answer"}
    rows = [["family", "form", "questions", *(names[way] for way in ways)]]
    for family in summary["families"]:
        for form in FORMS:
            cells = [by_place[family, form, way] for way in ways]
            rows.append([family, form, str(cells[0]["questions"]), *(_cell(cell) for cell in cells)])
    rows.append(["**mean**", "", "", *(f"**{100 * mean:.1f}**" for mean in summary["mean"].values())])
    rows.insert(1, ["---", "---", *["---:"] * (len(ways) + 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(score: dict) -> str:
    low, high = score["interval"]
    return f"{100 * score['score']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"
