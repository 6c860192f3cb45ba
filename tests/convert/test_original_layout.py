"""The published configuration, tensor names and tokenizer files, read against what the page and the goldens say."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig

from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.original_layout_videoxl import (
    KNOWN_VISION_TOWERS,
    fit_vocabulary_rows,
    is_original_config,
    original_tokenizer_length,
    rename_original_key,
    resolve_vision_config,
    translate_original_config,
)

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "authors_tiny" / "checkpoint"
CLIP_LARGE = "clip-vit-large-patch14-336"


@pytest.fixture
def original() -> dict:
    return json.loads((CHECKPOINT / "config.json").read_text())


def translated(original: dict, **changes) -> VideoXLConfig:
    vision_config = resolve_vision_config(original, CHECKPOINT / "clip")
    return VideoXLConfig(**translate_original_config(original | changes, vision_config, 503))


def test_every_value_is_the_checkpoints(original):
    config = translated(original, mm_spatial_pool_mode="max", mm_vision_select_layer=-1, rms_norm_eps=1e-5)
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_key_value_heads) == (64, 3, 2)
    assert (text.vocab_size, text.rms_norm_eps, text.eos_token_id) == (512, 1e-5, 502)
    assert (text.beacon_window, text.beacon_ratio, text.beacon_param) == (48, [2, 4, 8, 12, 16], ["q", "k", "v"])
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (32, 3, 56, 14)
    assert (config.spatial_pool_mode, config.spatial_pool_stride, config.vision_feature_layer) == ("max", 2, -1)
    assert (config.image_token_id, config.video_token_id) == (503, 504)
    assert config.image_grid_pinpoints == original["image_grid_pinpoints"]
    assert config.default_compression_ratio == 8


def test_rope_theta_survives(original, tmp_path):
    translated(original, rope_theta=123456.0).save_pretrained(tmp_path)
    assert VideoXLConfig.from_pretrained(tmp_path).text_config.rope_parameters["rope_theta"] == 123456.0


def test_rope_scaling_is_kept(original):
    rope = translated(original, rope_scaling={"type": "linear", "factor": 2.0}).text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 2.0, 1e6)


def test_vocabulary_grows_when_the_placeholders_have_no_room(original):
    vision_config = resolve_vision_config(original, CHECKPOINT / "clip")
    for length, expected in ((510, 512), (511, 513), (512, 514)):
        kwargs = translate_original_config(original, vision_config, length)
        assert kwargs["text_config"]["vocab_size"] == expected
        assert (kwargs["image_token_id"], kwargs["video_token_id"]) == (length, length + 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_patch_merge_type", "flat"),
        ("mm_projector_type", "linear"),
        ("mm_resampler_type", "qformer"),
        ("mm_vision_select_feature", "cls_patch"),
        ("image_aspect_ratio", "pad"),
        ("beacon_attn", "step-expansion"),
        ("beacon_sink_size", 4),
        ("mm_spatial_pool_mode", "bilinear"),
    ],
)
def test_another_model_is_refused_by_name(original, name, value):
    with pytest.raises((ValueError, StrictDataclassError), match=name):
        translated(original, **{name: value})


@pytest.mark.parametrize("name", ["rope_theta", "beacon_window", "mm_vision_select_layer", "image_grid_pinpoints"])
def test_a_missing_value_is_not_assumed(original, name):
    del original[name]
    with pytest.raises(ValueError, match=name):
        translated(original)


def test_only_a_flat_configuration_is_an_original_one(original):
    assert is_original_config(original)
    assert not is_original_config(translated(original).to_dict())
    assert not is_original_config({"model_type": "qwen2"})


def test_names_are_those_of_the_page():
    assert rename_original_key("model.embed_tokens.weight") == "model.language_model.embed_tokens.weight"
    assert rename_original_key("model.norm.weight") == "model.language_model.norm.weight"
    layer = "layers.27.self_attn.beacon_q_proj.bias"
    assert rename_original_key(f"model.{layer}") == f"model.language_model.{layer}"
    assert rename_original_key("model.mm_projector.2.bias") == "model.multi_modal_projector.linear_2.bias"
    tower = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    assert rename_original_key(tower) == "model.vision_tower.pre_layrnorm.weight"
    assert rename_original_key("lm_head.weight") == "lm_head.weight"


def test_renaming_leaves_our_own_names_alone():
    index = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
    ours = {rename_original_key(name) for name in index["weight_map"]}
    assert len(ours) == len(index["weight_map"])
    assert {rename_original_key(name) for name in ours} == ours


def test_known_tower_by_any_path_and_others_only_when_given(original):
    for named in (f"/share/somewhere/{CLIP_LARGE}", f"openai/{CLIP_LARGE}", f"D:\\weights\\{CLIP_LARGE}\\"):
        config = CLIPVisionConfig(**resolve_vision_config({"mm_vision_tower": named, "mm_hidden_size": 1024}))
        assert (config.num_hidden_layers, config.image_size, config.patch_size) == (24, 336, 14)
    with pytest.raises(ValueError, match=r"clip-vit-tiny-patch14-56.*--vision-tower"):
        resolve_vision_config(original)


def test_tower_from_a_whole_clip_configuration(original, tmp_path):
    vision = json.loads((CHECKPOINT / "clip" / "config.json").read_text())
    whole = {"model_type": "clip", "text_config": {"hidden_size": 8}, "vision_config": vision | {"dropout": 0.0}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    assert resolve_vision_config(original, tmp_path) == resolve_vision_config(original, CHECKPOINT / "clip")
    assert resolve_vision_config(original, tmp_path / "config.json")["image_size"] == 56


def test_tower_of_another_width_or_kind_is_refused(original, tmp_path):
    with pytest.raises(ValueError, match=r"1024.*mm_hidden_size 32"):
        resolve_vision_config(original, CLIP_LARGE)
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve_vision_config(original, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip_vision_model", "hidden_size": 32}')
    with pytest.raises(ValueError, match="not a CLIP vision model"):
        resolve_vision_config(original, tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ValueError, match="not valid JSON"):
        resolve_vision_config(original, tmp_path)


def test_known_tower_is_a_full_clip_configuration():
    own_fields = set(CLIPVisionConfig.__annotations__) - {"model_type", "base_config_key"}
    assert own_fields == set(KNOWN_VISION_TOWERS[CLIP_LARGE])


def test_tokenizer_length(tmp_path):
    assert original_tokenizer_length(CHECKPOINT) == 503
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        original_tokenizer_length(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": "b"}')
    with pytest.raises(ValueError, match="not a table"):
        original_tokenizer_length(tmp_path)


def test_added_rows_are_never_the_largest_logit():
    head = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    states = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    fitted = fit_vocabulary_rows(head, 13)
    assert torch.equal(fitted[:11], head)
    assert ((states @ fitted.T).argmax(-1) < 11).all()
    assert torch.equal(fit_vocabulary_rows(head, 9), head[:9])
