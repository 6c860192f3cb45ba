"""From a video and a question to an answer."""

import copy
import inspect
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.generation import GenerationMixin
from transformers.pipelines.base import Pipeline

from .watching_videoxl import Watched

DEFAULT_MAX_NEW_TOKENS = 256
_RETURN_NAMES = ("return_memory", "return_seconds")
_FORWARD_NAMES = ("compression_ratio", "use_checkpoint_generation")
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass
class Request:
    """
    What one input asks for, ready for the model. A class of its own, for the base pipeline moves every tensor that it
    finds in a dict to the device, and a film's pixel values should go there piece by piece.
    """

    questions: list[str]
    rows: list[list[int]]  # the prompt of each question, a placeholder per image or video
    visuals: dict[str, Any]  # videos are read while the model works on them
    asked: dict[str, Any]  # the input, as the answer repeats it
    is_list: bool  # several questions: several answers
    seconds: float  # that opening took


class VideoQuestionAnsweringPipeline(Pipeline):
    """
    Answers questions about videos and images, task `"video-question-answering"`.

    ```python
    pipe = pipeline("video-question-answering", model=…)
    pipe(video="film.mp4", question="Who enters the room?", num_frames=128)
    pipe({"video": "film.mp4", "question": "Who enters the room?"})
    pipe(video="film.mp4", question=["Who enters?", "What is on the table?"])  # compressed once, asked twice
    pipe(images=["a.png", "b.png"], question="What changed?")
    pipe([{"role": "user", "content": [{"type": "video", "video": "film.mp4"}, {"type": "text", "text": "…"}]}])
    ```

    Lists of such dicts or chats give a list of results, datasets and generators an iterator of them. Inputs are
    answered one after the other, whatever `batch_size` says, so that no answer depends on its neighbours.

    The video goes through the model once, into a cache, from which every question is answered as if it were asked
    alone. Decoding is greedy whatever the checkpoint's generation configuration says (Qwen2's samples, with a
    repetition penalty, which the authors' evaluation overrides); `use_checkpoint_generation=True` follows it.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = True

    def __call__(
        self,
        inputs: Any = None,
        *,
        video: Any = None,
        images: Any = None,
        question: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            inputs: a dict `{"video": …, "question": …}` (or `"images"`, or `"messages"`), a chat (a list of messages;
                the last one may be the answer's beginning), a list of either, a dataset or a generator of them. Other
                keys of a dict are not looked at, so that rows of a dataset can be passed.
            video: a path, a folder of images, a list of PIL images, an array [F, H, W, 3], a URL with
                `allow_url=True`.
            images: one image or a list, each tiled; with `as_frames=True` all are one span of frames.
            question: a text, or a list of them.
            num_frames, fps, max_frames, start, end, …: which frames are looked at, see the video processor (by default
                1 per second, at most 256).
            answer_prefix: the answer's first words, such as `"Best option: ("`; not repeated in `answer`.
            compression_ratio: visual tokens per summary token; the model's default if not given, 0 for none.
            use_checkpoint_generation: start from the checkpoint's generation configuration instead of greedy decoding.
            return_memory: put what the memory held after the answer, `cache.summary()`, under `memory`.
            return_seconds: put the seconds of wall time under `seconds`: `read`, that the model waited for frames,
                and `compress` of the video so far, and `answer` of this question.
            streamer, max_new_tokens (256), do_sample, num_beams, …: every argument of `generate`.

        Returns:
            `{"answer": str, "question": str, "video": the video as given}` (and `images`, `memory` where they apply);
            a list of them, in order, for a list of questions. With `num_return_sequences` above 1 an answer is a list.

        Raises:
            ValueError: naming the input that cannot be used (`VideoDecodeError`, a kind of it, for unreadable videos).
            TypeError: for an unknown argument.
        """
        named = {"video": video, "images": images, "question": question}
        named = {name: value for name, value in named.items() if value is not None}
        if inputs is None:
            return super().__call__(named, **kwargs)
        if named:
            raise ValueError(f"give {' and '.join(named)} as arguments or one dict as input, not both")
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if self._is_other_iterable(inputs):  # datasets.Dataset, map, zip, …: taken one by one, as a generator is
            inputs = (item for item in inputs)
        return super().__call__(inputs, **kwargs)

    @staticmethod
    def _is_other_iterable(inputs: Any) -> bool:
        known = (str, bytes, Mapping, list, GeneratorType, Dataset, torch.Tensor, os.PathLike)
        return isinstance(inputs, Iterable) and not isinstance(inputs, known)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        if self.processor is None:
            raise ValueError("VideoQuestionAnsweringPipeline needs a processor: pass processor=...")
        preprocess, forward, generate = {}, {}, {}
        postprocess = {name: kwargs.pop(name) for name in _RETURN_NAMES if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in _RETURN_NAMES}
        visual_names = self.processor.visual_argument_names
        generate_names = set(inspect.signature(GenerationMixin.generate).parameters) | set(vars(GenerationConfig()))
        for name, value in kwargs.items():
            if name == "answer_prefix" or name in visual_names:
                preprocess[name] = value
            elif name in _FORWARD_NAMES:
                forward[name] = value
            elif name in generate_names:
                generate[name] = value
            else:
                raise TypeError(f"VideoQuestionAnsweringPipeline got an unknown argument {name!r}")
        if generate:
            forward["generate_kwargs"] = generate
        return preprocess, forward, postprocess

    # Input

    def preprocess(self, inputs: Any, answer_prefix: str | None = None, **visual_kwargs: Any) -> dict[str, Request]:
        """Reads one input and its media; `visual_kwargs` are the processor's."""
        started = time.perf_counter()
        chats, asked, questions, is_list = self._conversations(inputs, as_frames=bool(visual_kwargs.get("as_frames")))
        continues = chats[0][-1].get("role") == "assistant"
        rows = self.processor.encode_chats(
            chats,
            answer_prefix=answer_prefix,
            add_generation_prompt=not continues,
            continue_final_message=continues,
        )
        if visual_kwargs.get("as_frames"):
            visuals = self.processor.visual_inputs(rows[:1], images=[_as_list(asked["images"])], **visual_kwargs)
        else:
            images, videos = self.processor.chat_media(chats[:1])
            visuals = self.processor.visual_inputs(rows[:1], images, videos, **{"stream": True, **visual_kwargs})
        seconds = time.perf_counter() - started
        return {"request": Request(questions, rows, visuals, asked, is_list, seconds)}

    def _conversations(self, inputs: Any, as_frames: bool) -> tuple[list, dict[str, Any], list[str], bool]:
        """One conversation per question, the input to repeat in the answer, the questions, whether they are a list."""
        messages = getattr(inputs, "messages", None)  # transformers wraps chats in a class of its own
        if isinstance(inputs, Mapping):
            messages = inputs.get("messages")
        elif messages is None:
            raise ValueError(
                "an input is a dict such as {'video': ..., 'question': ...} or a list of chat messages, got "
                f"a {type(inputs).__name__}: {inputs!r:.200}"
            )
        if messages is not None:
            if as_frames:
                raise ValueError("as_frames=True is for 'images'; in a chat give a video part a list of images")
            asked = self._asked_in(messages)
            return [list(messages)], asked, [_last_question(messages)], False
        question = inputs.get("question")
        questions = [question] if isinstance(question, str) else question
        if not isinstance(questions, (list, tuple)) or not questions:
            raise ValueError(f"'question' must be a text or a non-empty list of texts, got {question!r:.200}")
        for text in questions:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"'question' must be a text with something in it, got {text!r:.200}")
        visuals, asked = self._visual_parts(inputs, as_frames)
        chats = [[{"role": "user", "content": [*visuals, {"type": "text", "text": text}]}] for text in questions]
        return chats, asked, list(questions), not isinstance(question, str)

    @staticmethod
    def _visual_parts(inputs: Mapping, as_frames: bool) -> tuple[list[dict], dict[str, Any]]:
        video, images = inputs.get("video"), inputs.get("images")
        if (video is None) == (images is None):
            raise ValueError(
                f"an input needs 'video' or 'images', got the keys {sorted(map(str, inputs))}; "
                "for both in one prompt pass chat messages"
            )
        if as_frames and images is None:
            raise ValueError("as_frames=True is for 'images'; a list of images given as 'video' is frames already")
        if video is not None:
            if isinstance(video, (list, tuple)) and video and all(isinstance(v, (str, os.PathLike)) for v in video):
                raise ValueError("'video' is one video; pass a list of dicts, or several in chat messages")
            return [{"type": "video", "video": video}], {"video": video}
        parts = [{"type": "image", "image": image} for image in _as_list(images)]
        if not parts:
            raise ValueError("'images' is empty: give at least one image")
        return [{"type": "video"}] if as_frames else parts, {"video": None, "images": images}

    def _asked_in(self, messages: Sequence[Mapping]) -> dict[str, Any]:
        self.processor.check_chat(messages)
        (images,), (videos,) = self.processor.chat_media([messages])
        asked = {"video": videos[0] if len(videos) == 1 else videos or None}
        return asked | ({"images": images} if images else {})

    def _head(self, prompt: list[int]) -> int:
        placeholders = (self.processor.image_token_id, self.processor.video_token_id)
        return next((n for n in range(len(prompt), 0, -1) if prompt[n - 1] in placeholders), 0)

    # Answer

    def _forward(
        self,
        model_inputs: dict[str, Any],
        compression_ratio: int | Sequence[int] | None = None,
        use_checkpoint_generation: bool = False,
        generate_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        request = model_inputs["request"]
        if isinstance(request, list):  # a batch of the base pipeline
            inputs = [{"request": one} for one in request]
            arguments = (compression_ratio, use_checkpoint_generation, generate_kwargs)
            return {"records": [self._forward(one, *arguments)["records"] for one in inputs]}
        model, arguments = self._configured(dict(generate_kwargs or {}), use_checkpoint_generation)
        records, memory, remembered = [], None, None
        watched = Watched(request.seconds)
        for question, row in zip(request.questions, request.rows):
            started, head = time.perf_counter(), self._head(row)
            # a template may end the prompt with the video: then no text is left to ask a memory with
            if model.generation_config.use_cache is False or head == len(row):
                past = {**_pixels(request.visuals), "compression_ratio": compression_ratio}
                cache = None if model.generation_config.use_cache is False else self.model.new_cache()
            else:
                if row[:head] != remembered:
                    memory = self._remember(row[:head], request.visuals, compression_ratio, watched)
                    remembered = row[:head]
                    started = time.perf_counter()
                past, cache = {}, memory.copy()
            (prompt,) = self.processor.expand([row], request.visuals)
            tokens = self._new_tokens(model, prompt, past_key_values=cache, **past, **arguments)
            record = {"tokens": tokens, "question": question, **request.asked}
            record["memory"] = None if cache is None else cache.summary()
            answering = time.perf_counter() - started
            record["seconds"] = {"read": watched.read, "compress": watched.compressed, "answer": answering}
            records.append(record)
        return {"records": records if request.is_list else records[0]}

    def _new_tokens(self, model: Any, prompt: list[int], **arguments: Any) -> list[list[int]]:
        """What `generate` puts behind the prompt, one row per returned sequence."""
        ids = torch.tensor([prompt], device=self.device)  # [1, T]
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **arguments)
        return getattr(output, "sequences", output)[:, len(prompt) :].tolist()

    def _remember(self, head: list[int], visuals: dict[str, Any], compression_ratio: Any, watched: Watched) -> Any:
        """The cache that the prompt leaves up to its last visual token; `head` has one placeholder per item."""
        videos, started = visuals.get("pixel_values_videos") or [], time.perf_counter()
        read_before = watched.read
        if len(videos) == 1 and not visuals.get("pixel_values"):
            before = torch.tensor([head[: head.index(self.processor.video_token_id)]], dtype=torch.long)
            try:
                cache = watched.prefill(self.model, before, videos[0], compression_ratio)
            except ValueError as error:
                if not getattr(error, "read_again", False):
                    raise
                cache = watched.prefill(self.model, before, videos[0], compression_ratio)
        else:
            cache = self.model.new_cache()
            if head:
                ids = torch.tensor(self.processor.expand([head], visuals), dtype=torch.long, device=self.device)
                self.model.model(
                    input_ids=ids,  # [1, head]
                    past_key_values=cache,
                    use_cache=True,
                    compression_ratio=compression_ratio,
                    logits_to_keep=torch.zeros(0, dtype=torch.long),  # nobody asks for any output
                    **_pixels(visuals),
                )
        watched.compressed += time.perf_counter() - started - (watched.read - read_before)
        return cache

    def _configured(self, arguments: dict[str, Any], use_checkpoint: bool) -> tuple[Any, dict[str, Any]]:
        """The model with this call's generation configuration, and the arguments of `generate` that are not in it."""
        if "generation_config" not in arguments:
            arguments = {**self._generate_kwargs, **arguments}
        given, checkpoint = arguments.pop("generation_config", None), self.model.generation_config
        if given is not None and use_checkpoint:
            raise ValueError("give generation_config or use_checkpoint_generation=True, not both")
        base = given if given is not None else checkpoint if use_checkpoint else GenerationConfig()
        config = copy.deepcopy(base)
        for name in _SPECIAL_TOKENS:
            if getattr(config, name) is None:
                setattr(config, name, getattr(checkpoint, name))
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        arguments = config.update(**arguments)
        if config.max_new_tokens is None and config.max_length is None:
            config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
        placeholders = {self.processor.image_token_id, self.processor.video_token_id}
        config.suppress_tokens = sorted(placeholders | set(config.suppress_tokens or ()))
        if config.stop_strings is not None:
            arguments.setdefault("tokenizer", self.tokenizer)
        if self.assistant_model is not None:
            arguments.setdefault("assistant_model", self.assistant_model)
        # `generate` fills what is not set from the model's own configuration, and most settings have no value that
        # means "none". A shallow copy shares all weights and leaves the user's model, and other threads, alone.
        model = copy.copy(self.model)
        model.generation_config = config
        return model, arguments

    # Output

    def postprocess(
        self, model_outputs: dict[str, Any], return_memory: bool = False, return_seconds: bool = False
    ) -> Any:
        records, hidden = model_outputs["records"], set()
        hidden |= set() if return_memory else {"memory"}
        hidden |= set() if return_seconds else {"seconds"}
        if isinstance(records, list):
            return [self._answer(record, hidden) for record in records]
        return self._answer(records, hidden)

    def _answer(self, record: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
        record = {name: value for name, value in record.items() if name not in hidden}
        tokens = record.pop("tokens")
        answers = [self.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
        return {"answer": answers[0] if len(answers) == 1 else answers, **record}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Saves model and processor, with tokenizer and chat template: all that `pipeline` needs to load them again.

        Args:
            kwargs: for the model's `save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        # The base class would name this file in every saved configuration, and such a folder asks for
        # trust_remote_code even where the installed package could load it.
        if getattr(self.model.config, "custom_pipelines", None):
            custom_object_save(self, save_directory)


def _as_list(images: Any) -> list[Any]:
    if getattr(images, "ndim", 0) == 4:  # an array of images
        return list(images)
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _last_question(messages: Sequence[Mapping]) -> str:
    users = [message for message in messages if message.get("role") == "user"]
    if not users:
        raise ValueError("a chat needs a message of the user")
    content = users[-1]["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def _pixels(visuals: Mapping[str, Any]) -> dict[str, Any]:
    return {name: visuals[name] for name in ("pixel_values", "pixel_values_videos") if visuals.get(name)}


__all__ = ["VideoQuestionAnsweringPipeline"]
