"""``benchmarks/prefill.py`` runs end to end on a tiny model, and its ways answer the same."""

import json

import torch

from benchmarks import prefill


def test_runs_and_ways_agree(tmp_path, capsys):
    output = tmp_path / "results" / "prefill.json"
    arguments = ["--tiny", "--frames", "10", "43", "--repeats", "2", "--memory-repeats", "1"]
    prefill.main([*arguments, "--threads", str(torch.get_num_threads()), "--output", str(output)])
    record = json.loads(output.read_text())
    assert record["largest_logit_difference"] < 1e-4
    assert [(run["frames"], run["repeat"], run["way"]) for run in record["time_runs"]] == [
        (frames, repeat, way) for frames in (10, 43) for repeat in (0, 1) for way in prefill.WAYS
    ]
    # 43 frames of 4 tokens are 4 windows of 40 and a rest of 12; ratio 8 keeps 5 of each window.
    ours = [run for run in record["time_runs"] if run["way"] == "ours"]
    assert [len(run["window_seconds"]) for run in ours] == [1, 1, 4, 4]
    assert record["window_time_fit"]["kept_entries"] == [14, 19, 24, 29]
    assert len(record["memory_runs"]) == 2 * len(prefill.WAYS)
    assert all(run["peak_bytes"] >= run["before_bytes"] > 0 for run in record["memory_runs"])
    assert len(record["summary"]) == 2 * len(prefill.WAYS)
    printed = capsys.readouterr().out
    assert printed.count("time 43 frames") == 2 * len(prefill.WAYS)
    assert "| 43 | authors |" in printed and "R2 = " in printed
