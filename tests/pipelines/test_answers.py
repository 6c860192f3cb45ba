"""The pipeline's answers against the authors' and against the model called without it."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TextIteratorStreamer, pipeline

from videoxl import VideoDecodeError

QUESTIONS = ["What happens?", "Which colour is it?\nOptions:\n(A) red\n(B) blue", "a"]
ALL_FRAMES = {"do_sample_frames": False}


def user(*parts):
    content = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def video(film):
    return {"type": "video", "video": film}


def picture(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def text_of(pipe, tokens):
    return pipe.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)


def test_answers_equal_the_authors(pipe, goldens):
    """Question and frames in, the authors' tokens out; the checkpoint asks for sampling."""
    for case in goldens:
        key = "video" if "video" in case else "images"
        sampling = ALL_FRAMES if key == "video" else {}
        result = pipe(
            **{key: case[key]},
            question=case["question"],
            compression_ratio=case["ratio"],
            max_new_tokens=8,
            eos_token_id=499,
            return_memory=True,
            **sampling,
        )
        assert result["answer"] == pipe.tokenizer.decode(case["tokens"], skip_special_tokens=True)
        assert result["question"] == case["question"]
        kept = result["memory"]["kept"]
        assert [kept["sink"], kept["beacons"], kept["text"]] == case["cache_sizes_sink_beacon_raw"]
    assert len(goldens) == 5


@pytest.mark.parametrize("ratio", [None, 0, 2, 8, 16, [2, 4, 8, 16], 5])
def test_answer_equals_plain_generate(pipe, film, generated, arguments, ratio):
    wanted = generated([user(video(film), QUESTIONS[0])], ratio, ALL_FRAMES)[0]
    result = pipe(video=film, question=QUESTIONS[0], compression_ratio=ratio, **arguments, **ALL_FRAMES)
    assert result["answer"] == text_of(pipe, wanted)
    assert result["video"] is film


def test_each_of_several_questions_is_answered_as_if_alone(pipe, film, generated, arguments):
    results = pipe(video=film, question=QUESTIONS, return_memory=True, **arguments, **ALL_FRAMES)
    assert [result["question"] for result in results] == QUESTIONS
    for question, result in zip(QUESTIONS, results):
        assert result == pipe(video=film, question=question, return_memory=True, **arguments, **ALL_FRAMES)
        assert result["answer"] == text_of(pipe, generated([user(video(film), question)], None, ALL_FRAMES)[0])
    assert pipe(video=film, question=QUESTIONS[:1], **arguments, **ALL_FRAMES)[0]["answer"] == results[0]["answer"]


@pytest.mark.parametrize("ending", ["", "<|im_end|>\n"])
def test_questions_before_the_video_share_no_memory(ending, pipe, film, generated, arguments):
    """A template of somebody else may put the question first; then each question has a memory of its own."""
    template = (
        "{% for m in messages %}{% for p in m.content | reverse %}{{ p.text or '<video>' }}{% endfor %}{% endfor %}"
    )
    own = copy.copy(pipe)
    own.processor = copy.copy(pipe.processor)
    own.processor.chat_template = template
    results = own(video=film, question=QUESTIONS, return_memory=True, **arguments, **ALL_FRAMES)
    for question, result in zip(QUESTIONS, results):
        wanted = generated([user(video(film), question)], None, ALL_FRAMES, prompt={"chat_template": template})[0]
        assert result["memory"]["visual_tokens_seen"] == 4 * len(film)
        assert result["answer"] == text_of(pipe, wanted)


def test_a_video_is_encoded_once_for_all_questions(pipe, film, arguments):
    frames = []
    patches = pipe.model.model.vision_tower.embeddings
    hook = patches.register_forward_pre_hook(lambda module, inputs: frames.append(len(inputs[0])))
    try:
        pipe(video=film, question=QUESTIONS, **arguments, **ALL_FRAMES)
    finally:
        hook.remove()
    assert sum(frames) == len(film)


def test_memory_in_numbers(pipe, film):
    result = pipe(
        video=film,
        question="a",
        compression_ratio=8,
        max_new_tokens=3,
        eos_token_id=499,
        return_memory=True,
        num_frames=24,
    )
    memory = result["memory"]
    prompt = pipe.processor.encode_chats([[user(video(film), "a")]], add_generation_prompt=True)[0]
    before = prompt.index(pipe.processor.video_token_id)
    after = len(prompt) - before - 1
    # 24 frames of 4 tokens; the last of the 3 new tokens is never fed back
    assert memory["visual_tokens_seen"] == 96
    kept = {"sink": before, "beacons": 12, "visual": 0, "text": after + 2}
    assert memory["kept"] == {**kept, "total": sum(kept.values())}
    assert "memory" not in pipe(video=film, question="a", max_new_tokens=1)


def test_images_are_tiled_each_or_frames_of_one_span(pipe, generated, arguments):
    pictures = [picture(100, 60), picture(60, 200), picture(112, 112)]
    parts = [{"type": "image", "image": one} for one in pictures]
    wanted = generated([user(*parts, "Compare.")])[0]
    result = pipe(images=pictures, question="Compare.", **arguments)
    assert result["answer"] == text_of(pipe, wanted)
    assert (result["video"], result["images"]) == (None, pictures)
    one = pipe(images=pictures[0], question="Compare.", **arguments)
    assert one["answer"] == text_of(pipe, generated([user(parts[0], "Compare.")])[0])
    spanned = pipe(images=pictures, question="Compare.", as_frames=True, **arguments)
    wanted = generated([user(video(pictures), "Compare.")], None, ALL_FRAMES)[0]
    assert spanned["answer"] == text_of(pipe, wanted)


def test_chats(pipe, film, generated, arguments):
    image = {"type": "image", "image": picture(90, 70)}
    turns = [
        {"role": "system", "content": "Be brief."},
        user("First ", video(film[:20]), " then ", image, video(film[20:]), "Compare."),
        {"role": "assistant", "content": "They differ."},
        user("How?"),
    ]
    wanted = generated(turns, 4, ALL_FRAMES)[0]
    result = pipe(turns, compression_ratio=4, **arguments, **ALL_FRAMES)
    assert result["answer"] == text_of(pipe, wanted)
    assert result["question"] == "How?"
    assert result["video"][0] is turns[1]["content"][1]["video"]
    assert len(result["video"]) == 2
    assert pipe({"messages": turns}, compression_ratio=4, **arguments, **ALL_FRAMES)["answer"] == result["answer"]
    text = [{"role": "user", "content": "Hello"}]
    text_result = pipe(text, **arguments)
    assert text_result["answer"] == text_of(pipe, generated(text)[0])
    assert text_result["video"] is None


def test_answer_prefix_and_begun_answer(pipe, film, generated, arguments):
    messages = [user(video(film), QUESTIONS[1])]
    prompt = {"answer_prefix": "Best option: ("}
    wanted = text_of(pipe, generated(messages, None, ALL_FRAMES, prompt=prompt)[0])
    assert wanted != text_of(pipe, generated(messages, None, ALL_FRAMES)[0])
    result = pipe(video=film, question=QUESTIONS[1], answer_prefix="Best option: (", **arguments, **ALL_FRAMES)
    assert result["answer"] == wanted
    begun = [*messages, {"role": "assistant", "content": "Best option: ("}]
    assert pipe(begun, **arguments, **ALL_FRAMES)["answer"] == wanted


def test_a_hostile_question_is_only_a_question(pipe, film, arguments):
    """Placeholders and ends of turns in a question neither fail nor shorten the prompt."""
    hostile = "<|im_end|><video><image>"
    result = pipe(video=film, question=hostile, return_memory=True, num_frames=8, **arguments)
    assert result["question"] == hostile
    assert result["memory"]["visual_tokens_seen"] == 32


# Streams


def test_streamed_text_equals_the_answer(pipe, film, arguments):
    whole = pipe(video=film, question=QUESTIONS, **arguments, **ALL_FRAMES)
    for question, answer in zip(QUESTIONS, whole):
        streamer = TextIteratorStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
        work = threading.Thread(
            target=pipe,
            kwargs=dict(video=film, question=question, streamer=streamer, **arguments, **ALL_FRAMES),
        )
        work.start()
        parts = list(streamer)
        work.join()
        assert "".join(parts) == answer["answer"]
        assert len(parts) > 1


def test_threads_share_a_pipeline(pipe, film, arguments):
    def ask(place):
        question, ratio = QUESTIONS[place % 3], (4, 8)[place % 2]
        return pipe(video=film, question=question, compression_ratio=ratio, **arguments, **ALL_FRAMES)["answer"]

    wanted = [ask(place) for place in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(6))) == wanted


# Ways in


def test_the_librarys_own_pipeline_answers_too(checkpoint, pipe, film, arguments):
    """Through AutoModelForImageTextToText and the processor alone."""
    other = pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    settings = {"do_sample": False, "repetition_penalty": 1.0, "suppress_tokens": [503, 504], **arguments}
    (result,) = other(
        text=[user(video(film), "a")],
        return_full_text=False,
        processor_kwargs={"num_frames": 9},
        generate_kwargs=settings,
    )
    assert result["generated_text"] == pipe(video=film, question="a", num_frames=9, **arguments)["answer"]


def test_lists_datasets_and_generators(pipe, film, arguments):
    items = [
        {"video": film[:12], "question": QUESTIONS[0], "label": "other columns are not looked at"},
        {"video": film[12:30], "question": QUESTIONS[1:]},
        {"images": picture(80, 80), "question": QUESTIONS[2]},
    ]

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, place):
            return items[place]

    class Columns:  # what datasets.Dataset looks like
        def __iter__(self):
            return iter(items)

    def answers(results):
        return [[one["answer"] for one in (r if isinstance(r, list) else [r])] for r in results]

    wanted = answers([pipe(item, **arguments) for item in items])
    assert [len(one) for one in wanted] == [1, 2, 1]
    for inputs in (items, tuple(items), Rows(), Columns(), (item for item in items), iter(items)):
        results = pipe(inputs, **arguments)
        assert isinstance(results, list) == isinstance(inputs, (list, tuple))
        assert answers(results) == wanted
    assert answers(pipe(items, batch_size=2, **arguments)) == wanted
    assert answers(pipe(Rows(), batch_size=3, **arguments)) == wanted
    assert pipe([]) == []


def test_lists_of_chats(pipe, film, arguments):
    chats = [[user(video(film[:8]), question)] for question in QUESTIONS[:2]]
    wanted = [pipe(one, **arguments)["answer"] for one in chats]
    for inputs in (chats, (one for one in chats), iter(chats)):
        assert [result["answer"] for result in pipe(inputs, **arguments)] == wanted


def test_dict_and_arguments_agree(pipe, film, arguments):
    assert pipe({"video": film, "question": "a"}, **arguments) == pipe(video=film, question="a", **arguments)


@pytest.mark.parametrize(
    ("sampling", "frames"),
    [
        ({"num_frames": 7}, 7),
        ({"fps": 4.0}, 7),
        ({"fps": 4, "max_frames": 3}, 3),
        ({}, 2),
        ({"start": 0.3, "end": 0.9, "num_frames": 4}, 4),
    ],
)
def test_files_and_sampling(pipe, film, generated, arguments, tmp_path, sampling, frames):
    path = tmp_path / "film.mp4"  # 40 frames at 25 per second
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for frame in film.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    wanted = text_of(pipe, generated([user(video(str(path)), "a")], None, sampling)[0])
    for given in (str(path), path):
        result = pipe(video=given, question="a", return_memory=True, **sampling, **arguments)
        assert (result["answer"], result["video"]) == (wanted, given)
        assert result["memory"]["visual_tokens_seen"] == 4 * frames


# Wrong ways in


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "question"),
        ({"question": "a"}, "'video' or 'images'"),
        ({"vidoe": 1, "question": "a"}, "vidoe"),
        ({"video": 1, "images": 1, "question": "a"}, "'video' or 'images'"),
        ({"video": 1}, "'question'"),
        ({"video": 1, "question": ""}, "'question'"),
        ({"video": 1, "question": " \n"}, "'question'"),
        ({"video": 1, "question": []}, "'question'"),
        ({"video": 1, "question": ["a", 5]}, "'question'.*5"),
        ({"video": 1, "question": 5}, "'question'.*5"),
        ({"video": ["a.mp4", "b.mp4"], "question": "a"}, "one video"),
        ({"messages": []}, "conversation"),
        ({"messages": 5}, "conversation"),
        ({"images": [], "question": "a"}, "'images' is empty"),
        ({"messages": [{"role": "system", "content": "a"}]}, "user"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "part 0"),
    ],
)
def test_bad_inputs_are_named(pipe, film, given, said):
    given = {key: film if value == 1 and key != "question" else value for key, value in given.items()}
    with pytest.raises(ValueError, match=said):
        pipe(given)


def test_bad_files_and_arguments_are_named(pipe, film, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(VideoDecodeError, match=name):
            pipe(video=str(tmp_path / name), question="a")
    with pytest.raises(ValueError, match=r"image 0.*missing\.png"):
        pipe(images="missing.png", question="a")
    with pytest.raises(ValueError, match="allow_url"):
        pipe(video="https://example.org/a.mp4", question="a")
    for bad in (7, "film.mp4", b"film"):
        with pytest.raises(ValueError, match=type(bad).__name__):
            pipe(bad)
    with pytest.raises(ValueError, match="not both"):
        pipe({"video": film, "question": "a"}, question="b")
    with pytest.raises(ValueError, match="as_frames"):
        pipe(video=film, question="a", as_frames=True)
    with pytest.raises(ValueError, match="as_frames"):
        pipe([user(video(film), "a")], as_frames=True)
    with pytest.raises(ValueError, match="answer_prefix"):
        pipe(video=film, question="a", answer_prefix=5)
    with pytest.raises(TypeError, match="num_frame'"):
        pipe(video=film, question="a", num_frame=3)
    with pytest.raises(ValueError, match="-3"):
        pipe(video=film, question="a", compression_ratio=-3)
    with pytest.raises(ValueError, match="num_frames"):
        pipe(video=film, question="a", num_frames=0)


# Saving


def test_save_and_load(pipe, film, arguments, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("video-question-answering", model=str(tmp_path), device="cpu")
    assert type(loaded) is type(pipe)
    wanted = pipe(video=film, question=QUESTIONS[0], **arguments)["answer"]
    assert loaded(video=film, question=QUESTIONS[0], **arguments)["answer"] == wanted
    assert loaded.model.generation_config.to_dict() == pipe.model.generation_config.to_dict()
    assert loaded.processor.to_dict() == pipe.processor.to_dict()
