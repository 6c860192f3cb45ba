"""What the authors' code answered on the same weights and pixels."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_model import GREEDY

from tests.conftest import GOLDENS
from videoxl.modeling_videoxl.original_layout_videoxl import rename_original_key

CASES = {case["name"]: case for case in json.loads((GOLDENS / "cases.json").read_text())}
GENERATE = [name for name, case in CASES.items() if case["kind"] == "generate"]
TRAIN = [name for name, case in CASES.items() if case["kind"] == "train"]


def expanded(values, at, count, filler):
    """`values` with `count` times `filler` in place of entry `at`."""
    return torch.cat((values[:at], torch.full((count,), filler), values[at + 1 :]))[None]


def prompt(small, case, tensors):
    """Ids with placeholders, and the pixels as the model takes them."""
    ids, pixels = tensors[f"{case['name']}.input_ids"].flatten(), tensors.get(f"{case['name']}.pixel_values")
    at = ids.tolist().index(-200)
    if case["modality"] == "image":  # the authors' first tile is the squashed whole, which they drop
        return expanded(ids, at, case["visual_tokens"], small.image), {"pixel_values": [pixels[1:]]}
    return expanded(ids, at, case["visual_tokens"], small.video), {"pixel_values_videos": [pixels]}


@pytest.mark.parametrize("name", GENERATE)
def test_generates_the_authors_tokens_from_their_logits(name, small, golden_tensors):
    case = CASES[name]
    ids, visuals = prompt(small, case, golden_tensors)
    output = small.model.generate(
        ids,
        **visuals,
        **GREEDY,
        compression_ratio=case["ratio"],
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert output.sequences[0, ids.shape[1] :].tolist() == golden_tensors[f"{name}.tokens"].tolist()
    logits = torch.stack(output.logits, dim=1)[0]
    torch.testing.assert_close(logits, golden_tensors[f"{name}.logits"], atol=1e-4, rtol=0)
    kept = output.past_key_values.summary()["kept"]
    assert [kept["sink"], kept["beacons"], kept["text"]] == case["cache_sizes_sink_beacon_raw"]


@pytest.mark.parametrize("name", GENERATE)
def test_encodes_the_authors_visual_features(name, small, golden_tensors):
    _, visuals = prompt(small, CASES[name], golden_tensors)
    (pixels,) = next(iter(visuals.values()))
    features = small.features(pixels, image="pixel_values" in visuals)
    torch.testing.assert_close(features, golden_tensors[f"{name}.visual_features"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns_what_the_authors_code_learns(name, checkpointing, small, golden_tensors):
    """Their loss runs over one more logit than the vocabulary has, of a row drawn anew at every load; see
    `tests/reference/extra_row.py` for how that row was found. Here it is given to the head."""
    case, model = CASES[name], small.model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    row = load_file(GOLDENS.parent / "authors_extra_rows.safetensors")[name]
    model.resize_token_embeddings(513, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[512] = row
    ids, labels = golden_tensors[f"{name}.input_ids"].flatten(), golden_tensors[f"{name}.labels"].flatten()
    at, count = ids.tolist().index(-200), case["visual_tokens"]
    frames = golden_tensors["video0.pixel_values"]
    frames = frames[torch.arange(count // 4) % len(frames)]
    output = model(
        expanded(ids, at, count, small.video),
        pixel_values_videos=[frames],
        labels=expanded(labels, at, count, -100),
        compression_ratio=case["ratio"],
    )
    output.loss.backward()
    assert abs(output.loss.item() - case["loss"]) < 1e-5
    parameters = dict(model.named_parameters())
    golden = {key: value for key, value in golden_tensors.items() if key.startswith(f"{name}.grad.")}
    assert len(golden) >= 8
    for key, gradient in golden.items():
        ours = parameters[rename_original_key(key.removeprefix(f"{name}.grad."))].grad
        assert (ours - gradient).norm() < 1e-4 * gradient.norm(), key


@pytest.mark.parametrize("name", GENERATE)
def test_bfloat16_errs_no_more_than_bfloat16_must(name, small, golden_tensors):
    """Rounded weights and activations move the logits by some per cent; the plain restatement, rounded alike, says
    by how many."""
    case, tensors = CASES[name], golden_tensors
    ids, visuals = prompt(small, case, tensors)
    (pixels,) = next(iter(visuals.values()))
    at = tensors[f"{name}.input_ids"].tolist().index(-200)
    before, after = tensors[f"{name}.input_ids"][:at], tensors[f"{name}.input_ids"][at + 1 :]

    def ours_and_restated(dtype):
        small.model.to(dtype)
        features = small.features(pixels, image="pixel_values" in visuals)
        segments = [("text", before), ("visual", features), ("text", after)]
        restated, _ = small.restated(segments, case["ratio"], dtype=dtype)
        return small.logits(ids[0].tolist(), **visuals, compression_ratio=case["ratio"]).float(), restated.float()

    exact, exact_restated = ours_and_restated(torch.float32)
    ours, restated = ours_and_restated(torch.bfloat16)
    assert 0 < (ours - exact).norm() < 1.5 * (restated - exact_restated).norm()
