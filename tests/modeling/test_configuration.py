"""Configurations that are refused, and why; configurations that survive."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from videoxl import VideoXLConfig, VideoXLTextConfig


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("beacon_ratio", [4, -2], "positive integer, or 0"),
        ("beacon_ratio", [], "positive integer, or 0"),
        ("beacon_ratio", [2.5], "beacon_ratio"),
        ("beacon_ratio", [True], "beacon_ratio"),
        ("beacon_window", 7, "smaller than the largest ratio"),
        ("beacon_window", "wide", "beacon_window"),
        ("beacon_attn", "segmentation", "supported is 'full-coverage'"),
        ("beacon_pos", "append", "supported is 'interleave'"),
        ("beacon_sink_size", 4, "supported is 0"),
        ("beacon_attend_prev", False, "supported is True"),
        ("beacon_accum", False, "supported is True"),
        ("beacon_parallel_window", 2, "supported is 1"),
        ("beacon_stride", 720, "supported is 1440"),
        ("beacon_param", ["q", "o"], "supported are"),
        ("use_sliding_window", True, "supported is False"),
    ],
)
def test_refuses_what_is_not_computed(field, value, said):
    with pytest.raises((StrictDataclassError, ValueError), match=said) as error:
        VideoXLTextConfig(**{field: value})
    assert field in str(error.value)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"default_compression_ratio": -1}, "default_compression_ratio=-1"),
        ({"default_compression_ratio": 2000}, "larger than beacon_window=1440"),
        ({"video_token_id": 999_999}, "video_token_id=999999 lies outside the vocabulary"),
        ({"video_token_id": "<video>"}, "video_token_id"),
        ({"image_token_id": 151647}, "both 151647"),
        ({"vision_feature_layer": -30}, "hidden states 0 to 24"),
        ({"spatial_pool_mode": "median"}, "'average' and 'max'"),
        ({"spatial_pool_stride": 0}, "from 1 to 24"),
        ({"vision_chunk_size": 0}, "at least one frame"),
    ],
)
def test_refuses_what_does_not_fit(fields, said):
    with pytest.raises((StrictDataclassError, ValueError), match=said):
        VideoXLConfig(**fields)


def test_defaults_are_the_published_model():
    config = VideoXLConfig()
    assert config.tokens_per_frame == config.tokens_per_tile == 144
    assert config.text_config.rope_parameters["rope_theta"] == 1_000_000
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (28, 3584)
    assert config.text_config.beacon_window == 10 * config.tokens_per_frame


def test_comes_back_from_disk_as_it_was(tmp_path):
    config = VideoXLConfig(
        text_config={"beacon_ratio": [2, 16], "rope_theta": 5e5, "eos_token_id": [3, 4]},
        default_compression_ratio=16,
        summarize_remainder=True,
        spatial_pool_stride=3,
    )
    config.save_pretrained(tmp_path)
    again = VideoXLConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.text_config.rope_parameters["rope_theta"] == 5e5
    assert again.tokens_per_frame == 64
    assert again.tokens_per_tile == 144
