"""Questions and their answers, against a plain reading of what the films show."""

import re
from collections import Counter

import pytest

from videoxl.synthetic.needles import COLOURS, SPLITS, VALUES, colours_of
from videoxl.synthetic.questions import ANSWER_PREFIX, OPTION_LETTERS, Question
from videoxl.synthetic.tasks import FAMILIES, draw_sample, needle_sample, sentences


def samples(count=60, frames=64, split="train", **kwargs):
    return [draw_sample(split, number, frames, questions=6, **kwargs) for number in range(count)]


def answer_plainly(text, needles, frames):
    """The answer, from the question's words and the film's needles alone; None where words are not enough."""
    cards = [(place, needle) for place, needle in needles if needle.kind in ("number", "letter", "symbol")]
    named = [n for _, n in cards if re.search(rf"\b{re.escape(n.name)}\b", text)]
    words = text.lower()
    if re.search(r"\bthirds?\b|part of|pattern|belong|which one", words) and "appears" not in words:
        return None
    if "order" in words or "sort" in words:
        shown = dict.fromkeys(needle.value for _, needle in cards if needle in named)
        return ", ".join(f"{which}: {value}" for which, value in zip(("first", "middle", "last"), shown))
    if "first," in words or "last," in words or re.search(r"(first|last): the", words):
        which = "first" if "first" in words else "last"
        return f"The {which}: {named[0 if which == 'first' else -1].value}."
    if re.search(r"how (often|many times)|count how", words):
        return str(sum(needle.name == named[0].name for _, needle in cards))
    kinds = re.search(r"(number|letter|symbol)s\b", words)
    if kinds:
        return str(sum(needle.kind == kinds.group(1) for _, needle in cards))
    if "per cent" in words:
        place = next(place for place, needle in cards if needle == named[0])
        return str(round(100 * place / (frames - 1)))
    if "colour" in words and named:
        return named[0].colour
    if "advertise" in words:
        return next((f"for {needle.value}" for _, needle in needles if needle.kind == "advertisement"), "none")
    return None


@pytest.mark.parametrize("frames", [12, 64, 500])
def test_answers_are_what_the_film_shows(frames):
    checked = Counter()
    for sample in samples(frames=frames):
        for question in sample.questions:
            truth = answer_plainly(question.text, sample.film.needles, frames)
            if truth is None or "not shown" in question.answer:
                continue
            if question.per_cent is not None:
                assert question.per_cent == int(truth)
                said = int(re.search(r"(\d+)$", question.answer).group(1))
                assert abs(said - question.per_cent) <= 5 and said % 10 == 5
            else:
                assert truth.lower() in question.answer.lower(), (question, sample.film.needles)
            checked[question.family] += 1
    assert min(checked[f] for f in ("retrieval", "counting", "advertisement")) >= 10
    assert frames < 64 or min(checked[family] for family in ("ordering", "time")) >= 10


def test_thirds_and_presence():
    seen = Counter()
    for sample in samples(120, 90):
        names = {needle.name for _, needle in sample.film.needles}
        for question in sample.questions:
            if question.family == "time" and question.per_cent is None:
                place = next(p for p, n in sample.film.needles if re.search(rf"\b{n.name}\b", question.text))
                assert question.answer.endswith(f" in the {('first', 'middle', 'last')[place * 3 // 90]} third")
                seen["time"] += 1
            if question.answer in ("Yes, it was.", "No, it was not shown."):
                asked = re.search(r"the (?:(?:number|letter) )?\w+", question.text.replace("the film", "")).group()
                asked = next((n for n in names if n in question.text), asked)
                assert (asked in names) == question.answer.startswith("Yes"), question
                seen[question.answer] += 1
    assert min(seen.values()) >= 10 and len(seen) == 3


def test_the_same_sample_again_and_no_other_from_another_number_or_split():
    one = draw_sample("train", 7, 64, questions=5)
    assert one == draw_sample("train", 7, 64, questions=5)
    others = [draw_sample("train", 8, 64), draw_sample("test", 7, 64), draw_sample("validation", 7, 64)]
    assert len({sample.film.seed for sample in [one, *others]}) == 4


def test_splits_share_no_needles():
    shown = {
        split: {
            (needle.kind, needle.value, needle.colour)
            for sample in samples(40, split=split)
            for _, needle in sample.film.needles
            if needle.kind != "anomaly"
        }
        for split in SPLITS
    }
    assert not shown["train"] & shown["test"] and not shown["train"] & shown["validation"]
    assert not shown["test"] & shown["validation"] and len(shown["train"]) > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_at_every_length(family):
    phrasings, places = set(), Counter()
    for number in range(40):
        sample = draw_sample("test", number, (10, 64, 1024)[number % 3], family, questions=2)
        for question in sample.questions:
            assert question.family == family
            assert len(set(question.options)) == len(question.options) >= 2
            phrasings.add(re.sub(r"the (number|letter) \w|the \w+", "", question.text))
            places[question.correct] += 1
    assert len(phrasings) >= 4
    assert max(places.values()) < 0.75 * sum(places.values())  # the right letter cannot be guessed


@pytest.mark.parametrize("frames", range(1, 10))
def test_short_films_have_questions_too(frames):
    for number in range(20):
        sample = draw_sample("train", number, frames, questions=3)
        assert sample.questions and sample.film.frames == frames


def test_prompts_replies_and_scores():
    options = ("the star", "the moon", "the ring")
    question = Question("retrieval", "Which symbol was shown?", "The moon.", options, 1)
    assert question.prompt(False) == question.text
    assert question.prompt(True) == "Which symbol was shown?\n(A) the star\n(B) the moon\n(C) the ring"
    assert question.reply(True) == "The moon. (B)" and question.reply(False) == "The moon."
    assert question.letter_reply() == "Best option: (B)" and question.letter_reply().startswith(ANSWER_PREFIX)
    for reply, named in [
        ("B)", 1),
        ("B", 1),
        (" (B) the moon", 1),
        ("B. The moon", 1),
        ("B\n\nIt is the ring.", 1),
        ("B the moon", 1),
        ("Best option: (C)", 2),
        ("A) B", 0),
        ("The moon. (B)", 1),
        ("The star. (B)", 1),
        ("It was the Moon, I think.", 1),
        ("The moon or the ring.", None),
        ("(A) or (B)", 0),
        ("Either (A) or (B)", None),
        ("D)", None),
        ("A moon", None),
        ("Be", None),
        ("", None),
    ]:
        assert question.named_option(reply) == named, reply
        assert question.is_right(reply, True) == (named == 1), reply
    for reply, right in [("The moon.", True), ("the MOON", True), ("The star.", False), ("The moon and", False)]:
        assert question.is_right(reply, False) == right, reply
    timed = Question("time", "When?", "At about 40 per cent.", ("at about 40 per cent",), 0, 43)
    for reply, right in [
        ("At about 40 per cent.", True),
        ("53", True),
        ("54", False),
        ("33 %", True),
        ("soon", False),
    ]:
        assert timed.is_right(reply, False) == right, reply


def test_needles_in_a_haystack():
    kinds = set()
    for number in range(30):
        for depth, place in ((0, 0), (25, 50), (50, 100), (100, 199)):
            sample = needle_sample("test", number, 200, depth)
            ((index, needle),) = sample.film.needles
            (question,) = sample.questions
            assert abs(index - place) <= 1
            assert needle.colour in colours_of("test", needle.kind, needle.value)
            shown = (needle.value, needle.colour)
            assert question.options[question.correct] in shown and len(question.options) == 4
            kinds.add(needle.kind)
    assert kinds == {"number", "letter", "symbol"}
    ((index, _),) = needle_sample("test", 0, 1, 100).film.needles
    assert index == 0


def test_sentences_hold_every_word():
    words = set(re.findall(r"\w+", " ".join(sentences("train", 150))))
    for kind in ("number", "letter", "symbol", "advertisement", "anomaly"):
        assert {word for value in VALUES[kind] for word in value.split()} <= words
    assert set(COLOURS) <= words and set(OPTION_LETTERS) <= words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: draw_sample("exam", 0, 64), "split='exam'"),
        (lambda: draw_sample("test", -1, 64), "number=-1"),
        (lambda: draw_sample("test", 0, 64, "smell"), "family='smell'"),
        (lambda: draw_sample("test", 0, 5, "ordering"), "at least 10"),
        (lambda: needle_sample("test", 0, 64, 101), "depth=101"),
        (lambda: draw_sample("test", 0, 0), "frames=0"),
        (lambda: needle_sample("test", 0, 0, 50), "frames=0"),
    ],
)
def test_what_cannot_be_asked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
