"""A Qwen2 and a CLIP become a Video-XL."""

import shutil

import pytest
import torch
from tokenizers import pre_tokenizers
from training_rows import film, row
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    TokenizersBackend,
    pipeline,
)

from videoxl.cli import main
from videoxl.training.run import run_training


@pytest.fixture(scope="module")
def parents(authors_checkpoint, tmp_path_factory):
    """Folders of a small Qwen2, whose vocabulary has no room for another token, and of a small CLIP."""
    folder = tmp_path_factory.mktemp("parents")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(authors_checkpoint)
    tokenizer.save_pretrained(folder / "text")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, eos_token_id=500, pad_token_id=500, **sizes)
    Qwen2ForCausalLM(text).save_pretrained(folder / "text")
    vision = {**sizes, "image_size": 56, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=sizes, vision_config=vision)).save_pretrained(folder / "clip")
    CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3], crop_size=56, size=56).save_pretrained(folder / "clip")
    return folder / "text", folder / "clip"


@pytest.fixture(scope="module")
def assembled(parents, tmp_path_factory):
    dest = tmp_path_factory.mktemp("assembled") / "model"
    arguments = [*map(str, parents), str(dest), "--window", "32", "--ratios", "2,16", "--feature-layer", "-1"]
    assert main(["assemble", *arguments]) == 0
    return dest


def test_it_answers_texts_as_the_qwen2_does(assembled, parents):
    model, plain = (AutoModelForCausalLM.from_pretrained(name).eval() for name in (assembled, parents[0]))
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        ours, theirs = model(ids).logits, plain(ids).logits
    torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs, atol=1e-5, rtol=0)


def test_its_parts_are_those_of_its_parents(assembled, parents):
    model = AutoModelForCausalLM.from_pretrained(assembled)
    tower = CLIPVisionModel.from_pretrained(parents[1]).state_dict()
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower[name]), name
    attention = model.model.language_model.layers[1].self_attn
    for name in "qkv":
        for kind in ("weight", "bias"):
            own, shared = (getattr(getattr(attention, f"{p}{name}_proj"), kind) for p in ("beacon_", ""))
            assert torch.equal(own, shared)
    end = AutoTokenizer.from_pretrained(parents[0]).convert_tokens_to_ids("<|im_end|>")
    table = model.model.language_model.embed_tokens.weight
    assert torch.equal(model.model.language_model.beacon_embed_tokens.weight[0], table[end])
    assert model.generation_config.eos_token_id == end
    config = model.config
    assert (config.text_config.beacon_window, config.text_config.beacon_ratio) == (32, [2, 16])
    assert (config.vision_feature_layer, config.tokens_per_frame) == (-1, 4)
    first = len(AutoTokenizer.from_pretrained(parents[0]))
    assert (config.image_token_id, config.video_token_id) == (first, first + 1)
    assert table.shape[0] == first + 2
    processor = AutoProcessor.from_pretrained(assembled)
    assert list(processor.video_processor.image_mean) == [0.5, 0.4, 0.3]
    assert processor.video_processor.crop_size["height"] == 56


@pytest.mark.parametrize("place, name", [(0, "TEXT_MODEL"), (1, "VISION_MODEL")])
def test_a_folder_that_is_not_there_is_named(parents, tmp_path, capsys, place, name):
    given = [*map(str, parents)]
    given[place] = str(tmp_path / "gone")
    assert main(["assemble", *given, str(tmp_path / "model")]) == 1
    assert f"{name} {tmp_path / 'gone'}: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("place, name", [(0, "TEXT_MODEL"), (1, "VISION_MODEL")])
def test_a_hub_id_that_cannot_be_loaded_is_named(parents, tmp_path, capsys, place, name):
    given = [*map(str, parents)]
    given[place] = "nobody/nothing"
    assert main(["assemble", *given, str(tmp_path / "model")]) == 1
    assert f"{name} nobody/nothing: no folder here, and as a Hub id" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_that_is_all_in_its_file_stays_as_it_is(parents, tmp_path):
    """Another way to split texts than Qwen2's survives the assembly; see AutoTokenizer, which knows Qwen2's alone."""
    text = shutil.copytree(parents[0], tmp_path / "text")
    tokenizer = TokenizersBackend.from_pretrained(text)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save_pretrained(text)
    assert main(["assemble", str(text), str(parents[1]), str(tmp_path / "model"), "--window", "32"]) == 0
    ours = AutoProcessor.from_pretrained(tmp_path / "model").tokenizer
    ids = [each("a b  c").input_ids for each in (tokenizer, ours, AutoTokenizer.from_pretrained(text))]
    assert ids[0] == ids[1] != ids[2]


def test_it_goes_through_pipeline_and_training(assembled, tmp_path):
    pipe = pipeline("video-question-answering", model=str(assembled))
    assert isinstance(pipe(video=film(20), question="What?", max_new_tokens=3)["answer"], str)
    rows = [row(str(n), "<image>\nWhat?", f"It is {n}.", video=film(12, n)) for n in range(4)]
    settings = {"model": str(assembled), "output_dir": str(tmp_path), "trained_parts": ["projector"], "use_cpu": True}
    trainer = run_training({**settings, "max_steps": 2, "report_to": "none"}, train_rows=rows)
    before = AutoModelForCausalLM.from_pretrained(assembled).state_dict()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "projector" in name}


def test_no_folder_of_this_machine_travels_with_it(assembled, parents):
    said = "".join(path.read_text() for path in assembled.glob("*.json"))
    assert str(parents[0].parent) not in said and "vision_config" in said


def test_another_seed_is_another_projector_and_nothing_else(assembled, parents, tmp_path):
    arguments = [*map(str, parents), "--window", "32", "--ratios", "2,16", "--feature-layer", "-1"]
    assert main(["assemble", *arguments[:2], str(tmp_path / "other"), *arguments[2:], "--seed", "1"]) == 0
    one, other = (AutoModelForCausalLM.from_pretrained(name).state_dict() for name in (assembled, tmp_path / "other"))
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert different == {name for name in one if "projector" in name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "CLIP"}, "is a clip model"),
        ({"more": ["--ratios", "2,64", "--window", "32"]}, "beacon_window=32"),
        ({"more": ["--pool-stride", "9"]}, "spatial_pool_stride=9"),
        ({"more": ["--feature-layer", "-9"]}, "vision_feature_layer=-9"),
    ],
)
def test_what_does_not_go_together_is_named(change, said, parents, tmp_path, capsys):
    text = parents[1] if change.get("text") else parents[0]
    assert main(["assemble", str(text), str(parents[1]), str(tmp_path / "x"), *change.get("more", [])]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
