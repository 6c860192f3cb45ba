"""A conversion keeps every value, answers as the authors' code does, and says what it did."""

import json
import shutil
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from videoxl.convert.checkpoint_conversion import convert_checkpoint, target_shapes
from videoxl.convert.conversion_check import check_conversion
from videoxl.convert.conversion_plan import ConversionError
from videoxl.modeling_videoxl.configuration_videoxl import VideoXLConfig
from videoxl.modeling_videoxl.modeling_videoxl import VideoXLForCausalLM
from videoxl.modeling_videoxl.original_layout_videoxl import resolve_vision_config, translate_original_config
from videoxl.processing.processing_videoxl import VideoXLProcessor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "authors_tiny"
CHECKPOINT = FIXTURES / "checkpoint"
CLIP = CHECKPOINT / "clip"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOWER = "model.vision_tower.vision_tower.vision_model."
PROMPT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat happens?<|im_end|>\n"
PUBLISHED_SIZES = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "mm_hidden_size": 1024,
    "mm_vision_tower": "/share/somewhere/clip-vit-large-patch14-336",
    "beacon_window": 1440,
    "beacon_stride": 1440,
    "beacon_ratio": [2, 4, 8],
    "image_grid_pinpoints": "(1x1),...,(6x6)",
}


def our_name(name: str) -> str:
    """The names of the page's list, written out once more."""
    if name.startswith(TOWER):
        return "model.vision_tower." + name.removeprefix(TOWER)
    if name.startswith("model.mm_projector."):
        number, kind = name.split(".")[2:]
        return f"model.multi_modal_projector.linear_{int(number) // 2 + 1}.{kind}"
    return name if name == HEAD else "model.language_model." + name.removeprefix("model.")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_every_tensor_is_there_bit_by_bit(published, converted):
    source, written = published.tensors(), weights_of(converted)
    assert {our_name(name) for name in source} == set(written)
    assert all(torch.equal(tensor, written[our_name(name)]) for name, tensor in source.items())


def test_the_index_and_the_shards_agree(converted):
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        assert name in load_file(converted / file)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in weights_of(converted).values())


def test_golden_answer_after_conversion(converted):
    case = load_file(FIXTURES / "cases.safetensors")
    model = VideoXLForCausalLM.from_pretrained(converted).eval()
    ids = case["video0.input_ids"].flatten().tolist()
    visual = case["video0.visual_features"].shape[0]
    span = ids.index(-200)
    expanded = torch.tensor([ids[:span] + [model.config.video_token_id] * visual + ids[span + 1 :]])
    answer = model.generate(
        input_ids=expanded,
        attention_mask=torch.ones_like(expanded),
        pixel_values_videos=[case["video0.pixel_values"]],
        compression_ratio=16,
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert answer.sequences[0, expanded.shape[1] :].tolist() == case["video0.tokens"].flatten().tolist()
    assert torch.allclose(torch.cat(answer.logits), case["video0.logits"], atol=1e-4)


def test_configuration_tokenizer_and_generation_settings(converted):
    config, processor = VideoXLConfig.from_pretrained(converted), VideoXLProcessor.from_pretrained(converted)
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [503, 504]
    assert (processor.tokens_per_frame, processor.tokens_per_tile) == (4, 4)
    assert (processor.image_token_id, processor.video_token_id) == (config.image_token_id, config.video_token_id)
    generation = GenerationConfig.from_pretrained(converted)
    assert (generation.do_sample, generation.repetition_penalty, generation.top_k) == (True, 1.05, 20)
    assert generation.eos_token_id == [502, 500]


def test_preprocessing_is_the_vision_towers(published, converted, tmp_path):
    for part in ("image_processor", "video_processor"):
        pixels = getattr(VideoXLProcessor.from_pretrained(converted), part)
        assert (pixels.crop_size["height"], pixels.size["shortest_edge"]) == (56, 56)
    shutil.copytree(CLIP, tmp_path / "tower")
    values = json.loads((CLIP / "preprocessor_config.json").read_text())
    (tmp_path / "tower" / "preprocessor_config.json").write_text(json.dumps(values | {"image_mean": [0.1, 0.2, 0.3]}))
    convert_checkpoint(published.folder, tmp_path / "dest", vision_tower=tmp_path / "tower")
    processor = VideoXLProcessor.from_pretrained(tmp_path / "dest")
    assert list(processor.image_processor.image_mean) == list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3]


def test_three_tokenizer_files_suffice(published, converted, tmp_path):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (published.folder / name).unlink()
    published.convert(tmp_path / "dest")
    plain, full = AutoTokenizer.from_pretrained(tmp_path / "dest"), AutoTokenizer.from_pretrained(converted)
    assert plain(PROMPT).input_ids == full(PROMPT).input_ids
    assert plain.get_vocab() == full.get_vocab()
    assert (plain.eos_token, plain.pad_token, plain.model_max_length) == ("<|im_end|>", "<|endoftext|>", 32768)
    assert set(plain.all_special_ids) == set(full.all_special_ids)
    assert plain.decode([500, 501, 502, 503, 504], skip_special_tokens=True) == ""
    for name in ("vocab.json", "merges.txt"):
        text = (published.folder / name).read_text()
        (published.folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            published.convert(tmp_path / "none")
        (published.folder / name).write_text(text)


def test_dtype(published, tmp_path):
    published.convert(tmp_path / "half", dtype="bfloat16")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "half").values()} == {torch.bfloat16}
    assert VideoXLForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    check_conversion(published.folder, tmp_path / "half", vision_tower=CLIP)
    with pytest.raises(ValueError, match=r"int8.*float32, float16, bfloat16"):
        published.convert(tmp_path / "int", dtype="int8")


def test_no_room_for_the_placeholders(published, tmp_path):
    tensors = published.tensors()
    for name in (EMBEDDING, HEAD):
        tensors[name] = tensors[name][:503].clone()
    published.replace_tensors(tensors)
    published.change_config(vocab_size=503)
    report = published.convert(tmp_path / "dest")
    written = weights_of(tmp_path / "dest")
    for name in (EMBEDDING, HEAD):
        assert written[our_name(name)].shape == (505, 64)
        assert torch.equal(written[our_name(name)][:503], tensors[name])
    config = VideoXLConfig.from_pretrained(tmp_path / "dest")
    assert (config.text_config.vocab_size, config.image_token_id, config.video_token_id) == (505, 503, 504)
    assert report.table().count("2 rows added") == 2
    assert check_conversion(published.folder, tmp_path / "dest", vision_tower=CLIP).difference < 1e-5


def test_the_authors_extra_row_is_cut_and_said(published, tmp_path):
    tensors = published.tensors()
    original = {name: tensors[name] for name in (EMBEDDING, HEAD)}
    for name in (EMBEDDING, HEAD):
        tensors[name] = torch.cat([tensors[name], torch.full((1, 64), 1e3)])
    published.replace_tensors(tensors)
    report = published.convert(tmp_path / "dest")
    written = weights_of(tmp_path / "dest")
    assert all(torch.equal(written[our_name(name)], original[name]) for name in original)
    assert report.table().count("1 rows beyond the vocabulary of 512 cut") == 2


def test_what_has_no_use_is_left_out_by_name(published, tmp_path):
    tensors = published.tensors()
    tensors[TOWER + "embeddings.position_ids"] = torch.arange(17)[None]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors[HEAD] = tensors[EMBEDDING].clone()
    published.replace_tensors(tensors)
    published.change_config(tie_word_embeddings=True)
    report = published.convert(tmp_path / "dest")
    assert len(report.used) == 116 and len(report.used) + len(report.left_out) == len(tensors)
    assert {move.source.name.split(".")[-1] for move in report.left_out} == {"position_ids", "inv_freq", "weight"}
    assert "tied to the embedding" in report.table() and "rope_theta" in report.table()
    assert HEAD not in weights_of(tmp_path / "dest")
    assert VideoXLForCausalLM.from_pretrained(tmp_path / "dest").lm_head.weight.shape == (512, 64)


def test_the_table_counts_every_tensor(published, tmp_path):
    report = published.convert(tmp_path / "dest")
    assert "117 tensors read: 117 used, each once, 0 left out; every tensor of the model is filled" in report.table()
    assert "model.layers.N.self_attn.beacon_q_proj.weight" in report.table()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing.*layers.1.mlp.up_proj"),
        (lambda t: t.update({"model.image_newline": torch.zeros(64)}), "no place.*model.image_newline"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(63)}), r"shape.*model.norm.weight \[63\]"),
        (lambda t: t.update({EMBEDDING: t[EMBEDDING][:400].clone()}), r"shape.*embed_tokens.weight \[400, 64\]"),
        (lambda t: t.update({"model.language_model.norm.weight": torch.ones(64)}), "under two names.*model.norm"),
    ],
)
def test_wrong_tensors_are_named_and_nothing_is_left(published, tmp_path, spoil, message):
    tensors = published.tensors()
    spoil(tensors)
    published.replace_tensors(tensors)
    with pytest.raises(ConversionError, match=message):
        published.convert(tmp_path / "dest")
    assert not (tmp_path / "dest").exists() and not leftovers(tmp_path)


def test_check_finds_a_weight_that_differs(published, tmp_path):
    published.convert(tmp_path / "dest")
    assert check_conversion(published.folder, tmp_path / "dest", vision_tower=CLIP).difference == 0
    tensors = published.tensors()
    tensors["model.layers.2.self_attn.beacon_v_proj.weight"] *= 1.5
    published.replace_tensors(tensors)
    with pytest.raises(ConversionError, match="does not compute what"):
        check_conversion(published.folder, tmp_path / "dest", vision_tower=CLIP)


def test_the_published_sizes_are_those_of_qwen2_7b_and_clip_large():
    original = json.loads((CHECKPOINT / "config.json").read_text()) | PUBLISHED_SIZES
    kwargs = translate_original_config(original, resolve_vision_config(original), 151646)
    config = VideoXLConfig(**kwargs)
    counts = {"beacon": 0, "vision_tower": 0, "projector": 0, "": 0}
    for name, shape in target_shapes(config).items():
        counts[next(part for part in counts if part in name)] += prod(shape)
    beacon_projections = (3584 * 3584 + 3584) + 2 * (3584 * 512 + 512)
    assert counts == {
        "": 7_615_616_512,  # as Qwen2-7B-Instruct's model card counts
        "vision_tower": 303_507_456,  # as CLIP ViT-L/14-336's vision model
        "beacon": 28 * beacon_projections + 3584,
        "projector": 1024 * 3584 + 3584 + 3584 * 3584 + 3584,
    }
    assert (config.tokens_per_frame, config.image_token_id, config.text_config.vocab_size) == (144, 151646, 152064)
    assert config.image_grid_pinpoints == "(1x1),...,(6x6)"


def test_converting_twice_and_what_is_no_checkpoint(published, converted, tmp_path):
    with pytest.raises(ValueError, match="converted already"):
        convert_checkpoint(converted, tmp_path / "dest")
    with pytest.raises(ValueError, match="--vision-tower"):
        convert_checkpoint(published.folder, tmp_path / "dest")
    published.change_config(beacon_pos="append")
    with pytest.raises(ValueError, match="beacon_pos='append' is not supported"):
        published.convert(tmp_path / "dest")
    (published.folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        published.convert(tmp_path / "dest")
