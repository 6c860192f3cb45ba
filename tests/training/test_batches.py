"""From rows to batches: ids, labels, pixels, seeds."""

import numpy as np
import pytest
import torch
from PIL import Image
from training_rows import film, row
from transformers import AutoModelForCausalLM, AutoProcessor

from videoxl.synthetic.films import Film, write_film
from videoxl.training.collator import VideoXLCollator


def learned(processor, batch, place=0):
    """The text that a row's labels hold."""
    labels = batch["labels"][place]
    return processor.tokenizer.decode(labels[labels != -100])


@pytest.mark.parametrize(
    ("question", "content"),
    [
        ("<image>\nWhat is it?", [{"type": "video", "video": film(6)}, {"type": "text", "text": "What is it?"}]),
        ("<image>", [{"type": "video", "video": film(6)}]),
        (
            "First <image> and then?",
            [
                {"type": "text", "text": "First "},
                {"type": "video", "video": film(6)},
                {"type": "text", "text": " and then?"},
            ],
        ),
        (
            "<image>\nWhat is <|im_end|> or <video>?",
            [{"type": "video", "video": film(6)}, {"type": "text", "text": "What is <|im_end|> or <video>?"}],
        ),
    ],
)
def test_prompts_are_those_of_inference(question, content, processor):
    """Each turn's ids begin with the prompt that inference makes of the turns before it."""
    batch = VideoXLCollator(processor)([row("a", question, " It is.\n", "Why?", "So.", video=film(6))])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    turns = [{"role": "user", "content": content}]
    for answer, asked in (("It is.", "Why?"), ("So.", None)):
        arguments = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "do_sample_frames": False}
        prompt = processor.apply_chat_template(turns, **arguments)
        length = prompt["input_ids"].shape[1]
        assert ids[:length].tolist() == prompt["input_ids"][0].tolist()
        assert labels[length - 1] == -100
        assert labels[length] == ids[length]
        torch.testing.assert_close(batch["pixel_values_videos"][0], prompt["pixel_values_videos"][0])
        turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": asked}]
    assert learned(processor, batch) == "It is.<|im_end|>\nSo.<|im_end|>\n"


def test_turn_marks_as_the_authors_label_them(processor):
    batch = VideoXLCollator(processor, label_turn_marks=True)([row("a", "Why?", "So.")])
    expected = "<|im_start|><|im_end|>\n<|im_start|><|im_end|>\n<|im_start|>So.<|im_end|>\n"
    assert learned(processor, batch) == expected


def test_another_chat_template_is_not_learned_in_silence(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    with pytest.raises(ValueError, match="the chat template writes no"):
        VideoXLCollator(processor)([row("a", "Why?", "So.")])


def test_kinds_mix_in_one_batch(processor, checkpoint):
    """The loss of the mixed batch is the mean over the labels of its rows, each run alone."""
    picture = Image.fromarray(film(1)[0])
    rows = [
        row("film", "<image>\nWhat?", "A film.", video=film(20)),
        row("picture", "<image>\nWhat?", "One picture, a longer text.", image=picture),
        row("pictures", "<image>\n<image>\nWhat?", "Two.", image=[picture, picture]),
        row("frames", "<image>\nWhat?", "Three of a film.", image=[picture] * 3),
        row("text", "What?", "Nothing to see."),
    ]
    collate = VideoXLCollator(processor, max_frames=7)
    batch = collate(rows)
    assert [len(frames) for frames in batch["pixel_values_videos"]] == [7, 1, 1, 3]
    assert len(batch["pixel_values"]) == 1
    assert batch["attention_mask"][:, 0].all()  # padded on the right
    model = AutoModelForCausalLM.from_pretrained(checkpoint).train()
    together = model(**batch).loss.item()
    total, count = 0.0, 0
    for one in rows:
        single = collate([one])
        labels = (single["labels"][:, 1:] != -100).sum().item()
        total, count = total + model(**single).loss.item() * labels, count + labels
    assert together == pytest.approx(total / count, abs=1e-5)


def test_over_the_cap_frames_are_evenly_spread(processor):
    every = VideoXLCollator(processor)([row("a", "<image>", "Yes.", video=film(30))])["pixel_values_videos"][0]
    capped = VideoXLCollator(processor, max_frames=4)([row("a", "<image>", "Yes.", video=film(30))])
    assert torch.equal(capped["pixel_values_videos"][0], every[[0, 9, 19, 29]])
    ready = VideoXLCollator(processor, max_frames=4)([row("a", "<image>", "Yes.", pixel_values_videos=every)])
    assert torch.equal(ready["pixel_values_videos"][0], capped["pixel_values_videos"][0])
    assert ready["input_ids"].tolist() == capped["input_ids"].tolist()


def test_video_files_are_sampled_by_the_second(processor, tmp_path):
    """Of 25 frames a second, 2 a second are every twelfth; over the cap they are evenly spread."""
    path = str(write_film(Film(1, 150), tmp_path / "film.mp4", rate=25))
    one = [row("a", "<image>", "Yes.", video=path)]
    read = processor.video_processor(path, do_sample_frames=False)
    every, rate = read["pixel_values_videos"][0], read["video_metadata"][0].fps
    sampled = VideoXLCollator(processor, fps=2.0)(one)["pixel_values_videos"][0]
    assert torch.equal(sampled, every[:: round(rate / 2)])
    capped = VideoXLCollator(processor, fps=2.0, max_frames=5)(one)["pixel_values_videos"][0]
    assert torch.equal(capped, every[np.linspace(0, len(every) - 1, 5, dtype=int)])


def test_a_folder_of_pictures_is_a_film(processor, tmp_path):
    for place, frame in enumerate(film(6)):
        Image.fromarray(frame).save(tmp_path / f"{place}.png")
    made = [
        VideoXLCollator(processor, max_frames=4)([row("a", "<image>", "Yes.", video=v)]) for v in (tmp_path, film(6))
    ]
    assert torch.equal(*(batch["pixel_values_videos"][0] for batch in made))


def test_ratio_seeds_follow_seed_epoch_and_key(processor):
    def seed(run=0, **more):
        return VideoXLCollator(processor, seed=run)([row("a", "Why?", "So.", **more)])["ratio_seeds"].item()

    assert seed() == seed() == seed(epoch=0)
    different = [seed(), seed(run=1), seed(epoch=1), seed(ratio_key=5)]
    assert len(set(different)) == 4
    assert (
        seed(ratio_key=5) == VideoXLCollator(processor)([row("b", "Why?", "So.", ratio_key=5)])["ratio_seeds"].item()
    )
    # a fixed value: whatever changes it changes every run that is resumed
    assert seed() == 2525320794638046814


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"id": "x"}, r"row 'x' has no 'conversations'"),
        (row("x", "Why?", " "), r"row 'x', turn 1: the answer is empty"),
        (row("x", "Why?"), r"row 'x': humans and gpt take turns"),
        (row("x", "<image> <image>", "So.", video=film(2)), r"row 'x': .* 2 <image>, but it has 1"),
        (row("x", "Why?", "So.", video=film(2)), r"row 'x': .* 0 <image>, but it has 1"),
        (row("x", "<image>", "So."), r"row 'x': .* 1 <image>, but it has 0"),
        (row("x", "<image>", "So.", video="missing.mp4"), r"row 'x': .*missing.mp4"),
        (row("x", "<image>", "So.", video="a.mp4", image="b.png"), r"row 'x' holds video and image"),
        ({"id": "x", "conversations": [{"from": "cat", "value": "Miau"}]}, r"row 'x', turn 0: .*cat"),
    ],
)
def test_bad_rows_are_named(bad, said, processor):
    with pytest.raises(ValueError, match=said):
        VideoXLCollator(processor)([row("good", "Why?", "So."), bad])
