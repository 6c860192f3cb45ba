"""Models from disk and back: both layouts, types, devices, offload, ties, what is missing."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from videoxl import VideoXLConfig, VideoXLForCausalLM, VideoXLModel


@pytest.fixture
def saved(small, tmp_path):
    small.model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def film_logits(model, small, film):
    ids, frames = film
    with torch.no_grad():
        return model(torch.tensor([ids]), pixel_values_videos=[frames], compression_ratio=8).logits


def test_saved_under_our_names_and_read_back_the_same(small, film, saved):
    with safe_open(saved / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(small.model.state_dict())
    assert "model.language_model.layers.0.self_attn.beacon_q_proj.weight" in names
    assert "model.vision_tower.embeddings.patch_embedding.weight" in names
    assert "model.multi_modal_projector.linear_1.weight" in names
    again = VideoXLForCausalLM.from_pretrained(saved).eval()
    assert torch.equal(film_logits(again, small, film), film_logits(small.model, small, film))
    ids, frames = film
    assert torch.equal(
        again.generate(torch.tensor([ids]), pixel_values_videos=[frames], max_new_tokens=4, do_sample=False),
        small.model.generate(torch.tensor([ids]), pixel_values_videos=[frames], max_new_tokens=4, do_sample=False),
    )


def test_saved_in_the_authors_names_on_request(small, film, tmp_path):
    small.model.save_pretrained(tmp_path, save_original_format=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    published = json.loads((small.checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name for name in published if "lm_head" in name or "mm_projector" in name} <= names
    again = VideoXLForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(film_logits(again, small, film), film_logits(small.model, small, film))


def test_auto_classes_know_the_model(small, film, saved):
    assert isinstance(AutoConfig.from_pretrained(saved), VideoXLConfig)
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        model = auto.from_pretrained(saved).eval()
        assert type(model) is VideoXLForCausalLM
        assert torch.equal(film_logits(model, small, film), film_logits(small.model, small, film))
    base = AutoModel.from_pretrained(saved).eval()
    assert type(base) is VideoXLModel
    ids, frames = film
    with torch.no_grad():
        hidden = base(torch.tensor([ids]), pixel_values_videos=[frames], compression_ratio=8).last_hidden_state
        logits = small.model.lm_head(hidden)
    torch.testing.assert_close(logits, film_logits(small.model, small, film), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept_to_the_cache(dtype, small, film, saved):
    model = VideoXLForCausalLM.from_pretrained(saved, dtype=dtype).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    ids, frames = film
    cache = model.prefill_video(torch.tensor([ids[:9]]), [frames], 8)
    assert cache.layers[0].keys.dtype == dtype
    assert film_logits(model, small, film).dtype == dtype


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_layers_compute_the_same(place, small, film, saved, tmp_path):
    """Everything lies elsewhere and comes to the main device only when it is used."""
    from accelerate import cpu_offload, disk_offload

    model = VideoXLForCausalLM.from_pretrained(saved).eval()
    expected = film_logits(model, small, film)
    if place == "cpu":
        cpu_offload(model, execution_device="cpu")
    else:
        disk_offload(model, tmp_path / "offload", execution_device="cpu")
    assert model.lm_head.weight.device.type == "meta"
    assert torch.equal(film_logits(model, small, film), expected)
    ids, frames = film
    cache = model.prefill_video(torch.tensor([ids[:9]]), [frames], 8)
    tokens = model.generate(torch.tensor([ids]), past_key_values=cache, max_new_tokens=3, do_sample=False)
    direct = small.model.generate(
        torch.tensor([ids]), pixel_values_videos=[frames], compression_ratio=8, max_new_tokens=3, do_sample=False
    )
    assert torch.equal(tokens, direct)


def test_device_map_with_layers_on_disk(small, film, saved, tmp_path):
    devices = {"model.vision_tower": "cpu", "model.multi_modal_projector": "disk", "lm_head": "cpu"}
    devices |= {"model.language_model.embed_tokens": "cpu", "model.language_model.beacon_embed_tokens": "disk"}
    devices |= {f"model.language_model.layers.{index}": "disk" if index else "cpu" for index in range(3)}
    devices |= {"model.language_model.norm": "cpu", "model.language_model.rotary_emb": "cpu"}
    model = VideoXLForCausalLM.from_pretrained(saved, device_map=devices, offload_folder=tmp_path / "offload").eval()
    assert model.model.language_model.layers[2].mlp.up_proj.weight.device.type == "meta"
    assert torch.equal(film_logits(model, small, film), film_logits(small.model, small, film))


def test_tied_embeddings_are_one_table(small, film, tmp_path):
    config = VideoXLConfig.from_dict({**small.config.to_dict(), "tie_word_embeddings": True})
    model = VideoXLForCausalLM(config).eval()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = VideoXLForCausalLM.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(film_logits(again, small, film), film_logits(model, small, film))


def test_vst_starts_as_the_page_says_where_a_checkpoint_has_none(saved):
    weights = load_file(saved / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "beacon" not in name}
    save_file(kept, saved / "model.safetensors", {"format": "pt"})
    model = VideoXLForCausalLM.from_pretrained(saved)
    language_model = model.model.language_model
    for layer in language_model.layers:
        for name in ("q", "k", "v"):
            own = getattr(layer.self_attn, f"beacon_{name}_proj")
            shared = getattr(layer.self_attn, f"{name}_proj")
            assert torch.equal(own.weight, shared.weight)
            assert torch.equal(own.bias, shared.bias)
            assert own.weight is not shared.weight
    end_of_turn = model.config.text_config.eos_token_id
    assert torch.equal(language_model.beacon_embed_tokens.weight[0], language_model.embed_tokens.weight[end_of_turn])


def test_fresh_models_start_so_too(small):
    model = VideoXLForCausalLM(small.config)
    attention = model.model.language_model.layers[1].self_attn
    assert torch.equal(attention.beacon_k_proj.weight, attention.k_proj.weight)
    assert attention.k_proj.weight.std() > 0


# The authors' layout


@pytest.fixture
def published(authors_checkpoint, tmp_path):
    """A copy of the authors' folder, to be altered."""
    shutil.copytree(authors_checkpoint, tmp_path / "published")
    return tmp_path / "published"


def test_unknown_vision_tower_asks_for_the_argument(published):
    with pytest.raises(ValueError, match=r"clip-vit-tiny-patch14-56.*vision_tower="):
        VideoXLForCausalLM.from_pretrained(published)


def test_vision_tower_is_for_the_authors_layout_only(saved, authors_checkpoint):
    with pytest.raises(ValueError, match=r"vision_tower=.*authors' layout"):
        VideoXLForCausalLM.from_pretrained(saved, vision_tower=authors_checkpoint / "clip")


def test_known_vision_towers_need_no_argument(published):
    """The name is known by any path; here its width does not fit the small projector, which is said."""
    config = json.loads((published / "config.json").read_text())
    config["mm_vision_tower"] = "/somebody/else/clip-vit-large-patch14-336"
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"hidden_size 1024.*mm_hidden_size 32"):
        VideoXLForCausalLM.from_pretrained(published)


def test_sub_folder_and_dtype(small, film, published, tmp_path):
    (tmp_path / "repository").mkdir()
    published.rename(tmp_path / "repository" / "weights")
    model = VideoXLForCausalLM.from_pretrained(
        tmp_path / "repository",
        subfolder="weights",
        vision_tower=tmp_path / "repository" / "weights" / "clip",
        dtype=torch.bfloat16,
    )
    assert model.dtype == torch.bfloat16
    assert model.generation_config.repetition_penalty == 1.05
    reference = small.model.to(torch.bfloat16)
    assert torch.equal(film_logits(model.eval(), small, film), film_logits(reference, small, film))


def test_vocabulary_grows_where_the_placeholders_have_no_room(small, film, published):
    """A tokenizer of 511 ids leaves one row of 512: `<video>` would be row 512."""
    added = json.loads((published / "added_tokens.json").read_text())
    added |= {f"<|extra_{index}|>": index for index in range(503, 511)}
    (published / "added_tokens.json").write_text(json.dumps(added))
    model = VideoXLForCausalLM.from_pretrained(published, vision_tower=published / "clip").eval()
    assert (model.config.image_token_id, model.config.video_token_id) == (511, 512)
    assert model.config.text_config.vocab_size == 513
    assert model.lm_head.weight.shape[0] == model.get_input_embeddings().weight.shape[0] == 513
    ids, frames = film
    moved = [model.config.video_token_id if token == small.video else token for token in ids]
    logits = film_logits(model, small, (moved, frames))
    torch.testing.assert_close(logits[..., :512], film_logits(small.model, small, film), atol=1e-5, rtol=0)
    assert (logits.argmax(-1) < 511).all()


def test_a_row_beyond_the_vocabulary_is_cut(small, film, published):
    """The authors' code adds an untrained row when it loads; a checkpoint saved after that carries it."""
    for shard in published.glob("*.safetensors"):
        tensors = load_file(shard)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                tensors[name] = torch.cat((tensors[name], torch.full((1, 64), 9.0)))
        save_file(tensors, shard, {"format": "pt"})
    model = VideoXLForCausalLM.from_pretrained(published, vision_tower=published / "clip").eval()
    assert model.lm_head.weight.shape[0] == model.config.text_config.vocab_size == 512
    assert torch.equal(film_logits(model, small, film), film_logits(small.model, small, film))


def test_code_in_a_bundle_is_not_asked_for_where_the_package_is(small, saved):
    config = json.loads((saved / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "configuration_videoxl.VideoXLConfig"}, "custom_pipelines": {"x": {}}}
    (saved / "config.json").write_text(json.dumps(config))
    again = AutoConfig.from_pretrained(saved)
    assert not hasattr(again, "auto_map")
    assert not hasattr(again, "custom_pipelines")
