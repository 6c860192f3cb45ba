"""Prompts and media joined into model inputs."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from videoxl.processing.processing_videoxl import VideoXLProcessor

PROMPT = "<|im_start|>user\n{}<|im_end|>\n"


def conversation(*parts):
    content = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


def picture(width=100, height=60):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def golden_media(goldens, case):
    name = case["name"]
    if goldens.has(f"{name}.image"):
        return {"type": "image", "image": goldens[f"{name}.image"]}
    if goldens.has(f"{name}.frames"):
        return {"type": "video", "video": goldens[f"{name}.frames"]}
    return None


def test_inputs_equal_the_authors(goldens, processor):
    """From frames and images to everything the authors' model was given."""
    seen = 0
    for case in goldens.of_kind("generate"):
        media = golden_media(goldens, case)
        if media is None:
            continue
        seen += 1
        inputs = processor.apply_chat_template(
            conversation(media, case["question"]),
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            do_sample_frames=False,
        )
        golden_ids = goldens[f"{case['name']}.input_ids"].tolist()
        place = golden_ids.index(-200)
        is_video = media["type"] == "video"
        token = processor.video_token_id if is_video else processor.image_token_id
        wanted = golden_ids[:place] + [token] * case["visual_tokens"] + golden_ids[place + 1 :]
        assert inputs["input_ids"].tolist() == [wanted]
        assert inputs["attention_mask"].tolist() == [[1] * len(wanted)]
        golden_pixels = goldens[f"{case['name']}.pixel_values"]
        pixels = inputs["pixel_values_videos" if is_video else "pixel_values"]
        assert len(pixels) == 1
        assert torch.equal(pixels[0], golden_pixels if is_video else golden_pixels[1:])
        assert ("image_sizes" in inputs) is not is_video
    assert seen == 5


def test_each_placeholder_takes_its_item(processor, frames):
    videos, images = [frames, frames[:2]], [picture(60, 60), picture(60, 200)]
    text = "a<video>\n<image>b<image><video>c"
    inputs = processor(text=text, videos=videos, images=images)
    ids = inputs["input_ids"][0].tolist()
    image, video = processor.image_token_id, processor.video_token_id
    runs = [(token, len(list(run))) for token, run in itertools.groupby(ids) if token in (image, video)]
    # four tokens per frame and tile; the two images stand apart only by "b"
    assert runs == [(video, 24), (image, 16), (image, 12), (video, 8)]
    assert [len(pixels) for pixels in inputs["pixel_values_videos"]] == [6, 2]
    assert [len(tiles) for tiles in inputs["pixel_values"]] == [4, 3]
    assert inputs["image_sizes"].tolist() == [[60, 60], [200, 60]]


def test_all_ways_to_give_videos_agree(processor, frames):
    pictures = [Image.fromarray(frame.numpy()) for frame in frames]
    wanted = processor(text="<video>", videos=frames)
    for videos in (frames.numpy(), pictures, [frames], [pictures], [[frames]], [[pictures]]):
        inputs = processor(text="<video>", videos=videos)
        assert torch.equal(inputs["input_ids"], wanted["input_ids"])
        assert torch.equal(inputs["pixel_values_videos"][0], wanted["pixel_values_videos"][0])


def test_batch_equals_singles(processor, frames):
    """Rows of different lengths and media: each is its single row behind padding on the left."""
    conversations = [
        conversation({"type": "video", "video": frames}, "What happens?"),
        conversation("No picture at all"),
        conversation({"type": "image", "image": picture()}, "And ", {"type": "video", "video": frames[:1]}, "here?"),
        conversation({"type": "image", "image": picture(60, 60)}, {"type": "image", "image": picture(50, 150)}, "?"),
    ]
    batch = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, add_generation_prompt=True, do_sample_frames=False
    )
    singles = [
        processor.apply_chat_template(
            one, tokenize=True, return_dict=True, add_generation_prompt=True, do_sample_frames=False
        )
        for one in conversations
    ]
    for row, mask, single in zip(batch["input_ids"], batch["attention_mask"], singles):
        length = single["input_ids"].shape[1]
        assert torch.equal(row[-length:], single["input_ids"][0])
        assert mask.tolist() == [0] * (len(row) - length) + [1] * length
        assert (row[:-length] == processor.tokenizer.pad_token_id).all()
    for name in ("pixel_values", "pixel_values_videos"):
        wanted = [item for single in singles for item in single.get(name, [])]
        assert len(batch[name]) == len(wanted)
        assert all(torch.equal(one, other) for one, other in zip(batch[name], wanted))


def test_flat_and_nested_media_of_a_batch_agree(processor, frames):
    texts = ["<video>a", "b", "<video><video>c"]
    flat = processor(text=texts, videos=[frames, frames[:2], frames[:3]])
    nested = processor(text=texts, videos=[[frames], [], [frames[:2], frames[:3]]])
    with_none = processor(text=texts, videos=[[frames], None, [frames[:2], frames[:3]]])
    assert torch.equal(flat["input_ids"], nested["input_ids"])
    assert torch.equal(flat["input_ids"], with_none["input_ids"])


def test_padding_choices(processor):
    right = processor(text=["a", "a b c"], padding_side="right")
    assert right["attention_mask"][0, 0] == 1
    assert right["attention_mask"][0, -1] == 0
    lists = processor(text=["a", "a b c"], padding=False, return_tensors=None)["input_ids"]
    assert [len(row) for row in lists] == right["attention_mask"].sum(1).tolist()
    with pytest.raises(ValueError, match="padding"):
        processor(text=["a", "a b c"], padding=False)
    with pytest.raises(ValueError, match="padding"):
        processor(text=["a", "a b c"], padding="max_length")


def test_images_as_frames_of_one_span(processor):
    pictures = [picture(100, 60), picture(70, 90), picture(56, 56)]
    inputs = processor(text="<video>what?", images=pictures, as_frames=True)
    assert inputs["input_ids"][0].tolist().count(processor.video_token_id) == 12
    assert [tuple(span.shape) for span in inputs["pixel_values_videos"]] == [(3, 3, 56, 56)]
    two = processor(text=["<video>a", "none", "<video>b"], images=[pictures, [], pictures[:1]], as_frames=True)
    assert [len(span) for span in two["pixel_values_videos"]] == [3, 1]
    assert torch.equal(two["pixel_values_videos"][0], inputs["pixel_values_videos"][0])
    for text, images in (("<image>", pictures), (["<video>", "<video>"], pictures), ("<video><video>", pictures)):
        with pytest.raises(ValueError, match="as_frames"):
            processor(text=text, images=images, as_frames=True)
    with pytest.raises(ValueError, match="as_frames"):
        processor(text="<video>", images=pictures, videos=[torch.zeros(1, 9, 9, 3, dtype=torch.uint8)], as_frames=True)


def test_metadata_on_request(processor, frames):
    assert "video_metadata" not in processor(text="<video>", videos=frames)
    inputs = processor(text="<video>", videos=frames, num_frames=3, return_metadata=True)
    assert len(inputs["video_metadata"]) == 1
    assert len(inputs["pixel_values_videos"][0]) == 3


def test_arguments_flat_grouped_and_for_the_template_agree(processor, frames):
    flat = processor(text="<video>", videos=frames, num_frames=3)["pixel_values_videos"][0]
    grouped = processor(text="<video>", videos=frames, videos_kwargs={"num_frames": 3})["pixel_values_videos"][0]
    chat = conversation({"type": "video", "video": frames}, "?")
    direct = processor.apply_chat_template(chat, tokenize=True, return_dict=True, num_frames=3)
    inner = processor.apply_chat_template(chat, tokenize=True, return_dict=True, processor_kwargs={"num_frames": 3})
    for other in (grouped, direct["pixel_values_videos"][0], inner["pixel_values_videos"][0]):
        assert torch.equal(flat, other)
    ids = processor.apply_chat_template(chat, tokenize=True, num_frames=3)
    assert torch.equal(ids, direct["input_ids"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": "<video>"}, "1 <video>, but 0 videos"),
        ({"text": "<video><video>", "videos": 1}, "2 <video>, but 1 videos"),
        ({"text": "none", "videos": 1}, "0 <video>, but 1 videos"),
        ({"text": "<image>"}, "1 <image>, but 0 images"),
        ({"text": ["<video>", "<video>"], "videos": [[1, 1], []]}, "prompt 0 holds 1 <video>, but 2 videos"),
        ({"text": ["<video>", "a"], "videos": [[1]]}, "1 prompts, but there are 2"),
        ({"text": None, "videos": 1}, "text must be"),
        ({"text": []}, "text must be"),
        ({"text": [5]}, "text must be"),
    ],
)
def test_counts_that_do_not_match_are_errors_with_both(processor, frames, arguments, said):
    def real(videos):
        return [real(video) for video in videos] if isinstance(videos, list) else frames

    if "videos" in arguments:
        arguments = {**arguments, "videos": real(arguments["videos"])}
    with pytest.raises(ValueError, match=said):
        processor(**arguments)


def test_unknown_arguments_are_errors(processor, frames):
    with pytest.raises(TypeError, match="num_frame"):
        processor(text="<video>", videos=frames, num_frame=3)
    with pytest.raises(TypeError, match="truncation"):
        processor(text="a", truncation=True)


def test_a_part_without_its_medium_is_named(processor):
    with pytest.raises(ValueError, match=r"message 0, part 1.*'video'"):
        processor.apply_chat_template(conversation("a", {"type": "video"}), tokenize=True)


@pytest.mark.parametrize("count", [0, -1, 1.5, "4", None])
def test_token_counts_are_checked(processor, count):
    with pytest.raises(ValueError, match="tokens_per_frame"):
        VideoXLProcessor(
            processor.image_processor, processor.video_processor, processor.tokenizer, tokens_per_frame=count
        )


def test_parts_of_the_wrong_kind_are_refused(processor):
    with pytest.raises(TypeError, match="video_processor"):
        VideoXLProcessor(processor.image_processor, processor.image_processor, processor.tokenizer)


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}!"])
def test_save_and_load(processor, frames, tmp_path, template):
    processor.chat_template = template or processor.chat_template
    processor.save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "Hello"}]
    for loaded in (VideoXLProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is VideoXLProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.chat_template == processor.chat_template
        assert (loaded.tokens_per_frame, loaded.tokens_per_tile) == (4, 4)
        assert loaded.encode_chats([chat]) == processor.encode_chats([chat])
        before, after = (p(text="<video>a<image>", videos=frames, images=picture()) for p in (processor, loaded))
        assert torch.equal(before["input_ids"], after["input_ids"])
        assert torch.equal(before["pixel_values_videos"][0], after["pixel_values_videos"][0])
        assert torch.equal(before["pixel_values"][0], after["pixel_values"][0])
    assert {path.name for path in tmp_path.iterdir()} == {
        "chat_template.jinja",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
