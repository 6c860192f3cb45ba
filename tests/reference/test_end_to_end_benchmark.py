"""``benchmarks/end_to_end.py`` reads a film in both of its ways, and fits the line that was drawn."""

import json

import numpy as np
import pytest

from benchmarks import end_to_end


def test_the_line_is_found_behind_pauses_of_single_readings():
    kept = 9 + 10 * np.arange(1000)
    seconds = np.tile(0.01 + 2e-6 * kept, (3, 1))
    seconds[0, ::7] += 1
    rows = [("windows", 0, 0.0, 0.0, *row[::-1]) for reading in seconds for row in zip(kept, reading)]
    line = end_to_end.fit(*end_to_end.least(rows, readings=3))
    assert line["windows"] == 1000 and line["r2"] == pytest.approx(1)
    assert line["b"] == pytest.approx(2e-6)
    assert [line[name] for name in ("a", "a_first_half", "a_second_half")] == pytest.approx([0.01] * 3)


def test_a_piece_of_work_has_not_what_another_inside_it_took(monkeypatch):
    seconds = iter([1.0, 2.0, 5.0, 5.5, 6.0, 10.0])  # the outer one begins, two inner ones begin and end, it ends
    monkeypatch.setattr(end_to_end.time, "thread_time", lambda: next(seconds))
    spans = end_to_end.Spans()

    def outer():
        return spans.run("vision", 1, str, 7) + spans.run("vision", 1, str, 8)

    assert spans.run("windows", 3, outer) == "78"
    assert [(row[0], row[4], row[5]) for row in spans.rows] == [
        ("vision", 3, 1),
        ("vision", 0.5, 1),
        ("windows", 5.5, 3),
    ]


def test_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(end_to_end, "WHOLE", 1)  # a process takes ten seconds to begin
    monkeypatch.setattr(end_to_end, "TURNS", 2)
    output = tmp_path / "results" / "end_to_end.json"
    end_to_end.main(["--frames", "60", "--output", str(output)])
    record = json.loads(output.read_text())
    (film,) = record["films"]
    # 60 frames of 16 tokens are 6 windows of 144 and a rest of 96; the small checkpoint keeps 3,072 bytes of an entry.
    assert film["frames"] == 60 and film["windows"]["windows"] == 6 and film["readings"] == 2
    assert film["kept_mb"] > 60 * 3072 / 1e6
    assert film["peak_mb"] >= film["peak_before_mb"] > 0
    assert min(film["stages"].values()) > 0 and film["wall_of_half_stages"] > 0
    # Every second of a stage is the process's, and belongs to one stage alone.
    assert 0 < sum(film["in_stages"].values()) <= 1.01 * film["processor"]
    assert film["wall_of_half_in_stages"] == pytest.approx(film["wall"] * 2 / sum(film["in_stages"].values()))
    assert record["compared"]["peak_mb_difference"] == 0
    assert output.with_suffix(".png").stat().st_size
