"""The ablations with the small checkpoint's recipe, at a thousandth of its length."""

import json

import pytest
from transformers import AutoModelForCausalLM

from videoxl.training.tiny_ablation import VARIANTS, main, run_variants, score, varied


def test_ablation(settings, tmp_path):
    checkpoints = run_variants(settings, tmp_path, None, 1.0, 0)
    assert list(checkpoints) == list(VARIANTS)
    towers = [json.loads((tmp_path / f"variant-{n}" / "vision" / "finished.json").read_text()) for n in range(4)]
    assert towers == towers[:1] * 4  # trained once
    pooled = AutoModelForCausalLM.from_pretrained(checkpoints["pooled 16x, no VSTs"])
    assert pooled.config.tokens_per_frame == 1
    table = score(checkpoints, tmp_path, [4, 9], 1).splitlines()
    assert [line.split(" | ")[1] for line in table[2:]] == [
        *["4x", "8x", "16x"] * 2,
        "1 token a frame",
        "16 tokens a frame",
    ]
    assert (tmp_path / "table.md").read_text().splitlines() == table


def test_ablation_shortens_and_changes_only_what_it_names(settings):
    changed = varied(settings, 0.5, ratios=[16])
    settings["album"] = [stage for stage in settings["album"] if stage["name"] != "longest"]
    for kind in ("spelled", "album"):
        assert len(settings[kind]) == len(changed[kind])
        for before, after in zip(settings[kind], changed[kind]):
            assert after["steps"] == (3 if after["name"] in ("words", "cards") else 2) and after["ratios"] == [16]
            assert {**after, "steps": 0, "ratios": 0, "training": 0} == {
                **before,
                "steps": 0,
                "ratios": 0,
                "training": 0,
            }
    assert changed["vision"] == settings["vision"] and changed["assembly"] == settings["assembly"]


def test_without_compression_windows_are_computed_again(settings):
    changed = varied(settings, 1.0, **VARIANTS["no compression"])
    for stage in (*changed["spelled"], *changed["album"]):
        assert stage["ratios"] == [0] and stage["training"]["checkpoint_windows"]
    assert not any("checkpoint_windows" in stage["training"] for stage in (*changed["seeing"], changed["vision"]))


@pytest.mark.parametrize(
    "given, said",
    [
        (["--share", "3"], "--share 3.0: give a number above 0"),
        (["--questions", "0"], "questions"),
        (["--frames", "4,x"], "'4,x': give"),
        (["--vision", "nowhere"], "--vision nowhere: no folder of a finished stage"),
        (["--config", "nothing"], "there is no configuration 'nothing'"),
    ],
)
def test_ablation_refuses_before_it_trains(given, said, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--output", str(tmp_path / "out")])
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
