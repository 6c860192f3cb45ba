"""Annotations as they lie in files."""

import json

import datasets
import numpy as np
import pytest
from torch.utils.data import Dataset
from training_rows import row

from videoxl.training.annotations import read_annotations
from videoxl.training.sampling import grouped_order, row_groups


@pytest.fixture
def folder(tmp_path):
    """Two files of six and four rows of text."""
    for name, count in (("news", 6), ("films", 4)):
        written = [row(f"{name} {n}", "Why?", f"So {n}.") for n in range(count)]
        (tmp_path / f"{name}.json").write_text(json.dumps(written))
    return tmp_path


def ids(rows):
    return [rows[n]["id"] for n in range(len(rows))]


NEWS, FILMS = [f"news {n}" for n in range(6)], [f"films {n}" for n in range(4)]


def test_braces_wildcards_and_lists(folder):
    assert ids(read_annotations(folder / "news.json")) == NEWS
    assert ids(read_annotations(f"{folder}/{{news,films}}.json")) == NEWS + FILMS
    assert ids(read_annotations(f"{folder}/*.json")) == FILMS + NEWS
    assert ids(read_annotations([folder / "films.json", str(folder / "news.json")])) == FILMS + NEWS


def test_lines_of_json_may_hold_any_characters(folder):
    rows = json.loads((folder / "news.json").read_text())
    rows[0]["conversations"][0]["value"] += "\u2028 and \x85"
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "lines.jsonl").write_text(lines, encoding="utf-8")
    read = read_annotations(folder / "lines.jsonl")
    assert ids(read) == NEWS
    assert read[0]["conversations"][0]["value"] == rows[0]["conversations"][0]["value"]


def test_yaml_with_samples(folder):
    entries = {"all": FILMS, "first:2": FILMS[:2], "end:1": FILMS[3:], "first:50%": FILMS[:2], "end:30%": FILMS[2:]}
    for sampling, expected in entries.items():
        text = f"datasets:\n  - json_path: news.json\n  - {{json_path: films.json, sampling_strategy: '{sampling}'}}\n"
        (folder / "mix.yaml").write_text(text)
        assert ids(read_annotations(folder / "mix.yaml")) == NEWS + expected
    (folder / "mix.yaml").write_text("datasets: [{json_path: news.json, sampling_strategy: 'random:3'}]")
    drawn = [tuple(ids(read_annotations(folder / "mix.yaml", seed=seed))) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(len(set(one)) == 3 and set(one) <= set(NEWS) for one in drawn)


def test_objects_of_datasets_and_map_datasets(annotations):
    read = json.loads(annotations.read_text())
    made = datasets.Dataset.from_list([*read, row("text", "Why?", "So.")])  # its rows hold None where others have more
    rows = read_annotations(made, media_folder=annotations.parent)
    assert "image" not in rows[8]
    assert rows[0]["image"][1] == str(annotations.parent / "1.png")

    class Rows(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return row("mine", "Why?", "So.")

    mine = Rows()
    assert read_annotations(mine) is mine


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}', "no JSON list"),
        ("[{", "not valid JSON"),
        ("[]", "holds no rows"),
        ("[3]", "row 0 of the annotations is no object"),
        (json.dumps([{"id": "a7"}]), "row 'a7' has no 'conversations'"),
        (json.dumps([{**row("a7", "<image>", "So."), "video": "gone.mp4"}]), "row 'a7': .*gone.mp4 is missing"),
        (json.dumps([row("a7", "Why?", "")]), "row 'a7', turn 1: the answer is empty"),
    ],
)
def test_bad_files_are_named(content, said, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=f"(?s)bad.json.*{said}"):
        read_annotations(tmp_path / "bad.json")


def test_bad_lists_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_annotations(f"{folder}/{{news,nothing}}.json")
    for text, said in (
        ("a: 1", "datasets:"),
        ("datasets: [{json_path: news.json, sampling_strategy: 'some'}]", "'some'"),
    ):
        (folder / "mix.yaml").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_annotations(folder / "mix.yaml")


def test_grouped_batches_hold_one_kind_and_similar_lengths():
    rng = np.random.default_rng(0)
    rows = [row(str(n), "Why?" * int(rng.integers(1, 40)), "So.") for n in range(83)]
    rows += [row(str(n), "<image>" + "Why?" * int(rng.integers(1, 40)), "So.", video="a.mp4") for n in range(42)]
    groups = row_groups(rows)
    order = grouped_order(groups, batch=4, update=8, rng=rng)
    assert sorted(order) == list(range(125))
    batches = [order[start : start + 4] for start in range(0, 120, 4)]
    assert all(len({groups[index][0] for index in batch}) == 1 for batch in batches)
    spread = [max(groups[i][1] for i in batch) - min(groups[i][1] for i in batch) for batch in batches]
    assert np.mean(spread) < 25  # characters; of 156 that there are between the shortest and the longest
    assert order != grouped_order(groups, batch=4, update=8, rng=rng)
