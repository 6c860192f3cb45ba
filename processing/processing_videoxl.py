"""Text, images and videos into the inputs of Video-XL."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .prompt_videoxl import (
    CHAT_TEMPLATE,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    Piece,
    add_placeholder_tokens,
    check_conversation,
    check_text,
    encode_pieces,
    media_of,
    rendered_pieces,
    with_stand_ins,
)

_TEXT_NAMES = ("padding", "padding_side", "return_tensors", "return_metadata")
# arguments of transformers' own processors that make no sense here; None and False are let through
_UNSUPPORTED = ("tools", "documents", "return_assistant_tokens_mask", "load_audio_from_video")


class VideoXLProcessor(ProcessorMixin):
    """
    One image processor, one video processor and one tokenizer, joined as the authors' prompt joins them.

    Args:
        image_processor, video_processor, tokenizer: the parts. The tokenizer must have the special tokens `<image>`
            and `<video>`; see [`add_placeholder_tokens`].
        chat_template: a Jinja template; the authors' prompt by default.
        tokens_per_frame, tokens_per_tile: visual tokens that the model makes of one frame of a video (144 in the
            published model) and of one tile of an image. Each becomes one placeholder id in `input_ids`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        video_processor: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        tokens_per_frame: int = 144,
        tokens_per_tile: int = 144,
    ):
        super().__init__(
            image_processor,
            video_processor,
            tokenizer,
            chat_template=CHAT_TEMPLATE if chat_template is None else chat_template,
        )
        for name, count in (("tokens_per_frame", tokens_per_frame), ("tokens_per_tile", tokens_per_tile)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a positive integer, got {count!r}")
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(f"VideoXLProcessor needs a tokenizer of the `tokenizers` library, not {type(tokenizer)}")
        added = tokenizer.get_added_vocab()
        if IMAGE_TOKEN not in added or VIDEO_TOKEN not in added:
            raise ValueError(
                f"the tokenizer has no special tokens {IMAGE_TOKEN} and {VIDEO_TOKEN}: "
                "call add_placeholder_tokens(tokenizer) first"
            )
        self.tokens_per_frame = tokens_per_frame
        self.tokens_per_tile = tokens_per_tile
        self.image_token, self.image_token_id = IMAGE_TOKEN, added[IMAGE_TOKEN]
        self.video_token, self.video_token_id = VIDEO_TOKEN, added[VIDEO_TOKEN]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        # ProcessorMixin looks the video processor's base class up where it is missing without torchvision.
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"video_processor must be a video processor, got a {type(argument).__name__}")
        return VideoProcessorMixin

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Prompts and what they show, as inputs of the model.

        `text` is a whole prompt, or a list of them, written by the caller: special tokens in it are special tokens.
        Texts of users belong into [`apply_chat_template`], which keeps them texts. Each `<video>` takes the next of
        `videos`, each `<image>` the next of `images`.

        Args:
            images: one image, a list of them, or one list per prompt.
            text: one prompt or a list of B.
            videos: one video (a path, a list of PIL images, an array [F, H, W, 3], …), a list of them, or one list per
                prompt.
            kwargs: `padding` (True), `padding_side` ("left"), `return_tensors` ("pt"; None for lists),
                `return_metadata` (False); the image processor's arguments, with `as_frames=True` making all images of
                a prompt one span of frames that takes its `<video>`; the video processor's arguments, such as
                `num_frames`, `fps` and `max_frames`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` int64 [B, T], with one placeholder id per visual token;
            `pixel_values_videos`: a list of float32 [F, 3, H, W]; `pixel_values`: a list of float32 [tiles, 3, H, W];
            `image_sizes`: int64 [N, 2]; `video_metadata` with `return_metadata=True`. Each only where there is any.

        Raises:
            ValueError: if placeholders and items do not match (with both counts), or an item cannot be read.
        """
        rows = [text] if isinstance(text, str) else text
        if not isinstance(rows, (list, tuple)) or not rows or not all(isinstance(row, str) for row in rows):
            raise ValueError(f"text must be a prompt or a non-empty list of prompts, got {text!r:.200}")
        encoded = [encode_pieces(self.tokenizer, [Piece(row, trusted=True)]) for row in rows]
        return self._model_inputs(encoded, images, videos, kwargs)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        answer_prefix: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "auto",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        A conversation, or a list of them, as a prompt.

        With `tokenize=True` the texts of messages can never become special tokens: the template is rendered with
        stand-ins, and only its own pieces are searched for special tokens, so `<|im_end|>` or `<video>` in a question
        stays text. The template may therefore place texts, but not change them. `tokenize=False` returns one plain
        string, in which nothing tells a template's tokens from a user's: tokenizing it gives no such guarantee.
        Template variables passed as further arguments are trusted like the template.

        Args:
            conversation: messages `{"role": "system"|"user"|"assistant", "content": …}`; the content is a text or a
                list of `{"type": "text", "text": …}`, `{"type": "video", "video": …}`, `{"type": "image", "image": …}`
                (also with the keys `path` or `url`). Without a system message the authors' is put first.
            add_generation_prompt: end with the header of the assistant's answer.
            continue_final_message: leave the last message open, to be gone on with.
            answer_prefix: the answer's first words, put after its header (`"Best option: ("` in the authors'
                evaluation); brings the generation prompt with it.
            tokenize, return_dict, return_tensors: the prompt as a string; as `input_ids`; or as all inputs of the
                model, see [`__call__`].
            processor_kwargs: arguments of [`__call__`], such as `num_frames`; also taken directly.

        Raises:
            ValueError: naming the message or part that is no good.
        """
        template = self._resolve_chat_template(chat_template)
        processing, variables = self._split_template_arguments(template, dict(processor_kwargs or {}), kwargs)
        is_batched = is_batch(conversation)
        conversations = list(conversation) if is_batched else [conversation]
        variables.update(
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            answer_prefix=answer_prefix,
        )
        if not tokenize:
            prompts = [prompt + (answer_prefix or "") for prompt in self._render(conversations, **variables)]
            return prompts if is_batched else prompts[0]
        if return_tensors != "auto":
            processing["return_tensors"] = return_tensors
        rows = self.encode_chats(conversations, **variables)
        inputs = self._model_inputs(rows, *self.chat_media(conversations), processing)
        return inputs if return_dict else inputs["input_ids"]

    def _render(
        self,
        conversations: Sequence[Sequence[Mapping]],
        texts: list[str] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        answer_prefix: str | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The prompts of checked conversations; with `texts`, stand-ins in the texts' places and the texts in it."""
        for conversation in conversations:
            check_conversation(conversation)
        if answer_prefix is not None:
            check_text(answer_prefix, "answer_prefix")
        if answer_prefix is not None and continue_final_message:
            raise ValueError("answer_prefix starts a new answer, continue_final_message continues one: give one")
        return super().apply_chat_template(
            list(conversations) if texts is None else with_stand_ins(conversations, texts),
            add_generation_prompt=add_generation_prompt or answer_prefix is not None,
            continue_final_message=continue_final_message,
            **kwargs,
        )

    def encode_chats(
        self, conversations: Sequence[Sequence[Mapping]], answer_prefix: str | None = None, **kwargs: Any
    ) -> list[list[int]]:
        """
        The token ids of each conversation's prompt, with one placeholder per image or video.

        Takes the prompt's arguments of [`apply_chat_template`] and gives its guarantee; opens no media.
        """
        texts: list[str] = []
        prompts = self._render(conversations, texts, answer_prefix=answer_prefix, **kwargs)
        start = [Piece(answer_prefix or "", trusted=False)]
        return [encode_pieces(self.tokenizer, rendered_pieces(prompt, texts) + start) for prompt in prompts]

    def chat_media(self, conversations: Sequence[Sequence[Mapping]]) -> tuple[list[list[Any]], list[list[Any]]]:
        """The images and the videos of each conversation, in order."""
        images, videos = ([media_of(one, kind) for one in conversations] for kind in ("image", "video"))
        return images, videos

    def check_chat(self, conversation: Any) -> None:
        """Raise a `ValueError` that names the message, if `conversation` is no list of well-formed messages."""
        check_conversation(conversation)

    @property
    def visual_argument_names(self) -> set[str]:
        """The arguments of [`visual_inputs`]."""
        names = self._argument_names()
        return {*names["images_kwargs"], *names["videos_kwargs"], "images_kwargs", "videos_kwargs"}

    def _split_template_arguments(
        self, template: str, processing: dict[str, Any], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of the processor, and variables of the template."""
        kwargs.pop("sanitize_control_tokens", None)  # what it asks for is always done
        for name in _UNSUPPORTED:
            if kwargs.pop(name, None):
                raise ValueError(f"{name} is not supported by VideoXLProcessor.apply_chat_template")
        known = {name for names in self._argument_names().values() for name in names} | set(self._argument_names())
        processing.update({name: kwargs.pop(name) for name in list(kwargs) if name in known})
        unknown = [name for name in kwargs if name not in template]
        if unknown:
            raise TypeError(f"unknown argument {unknown[0]!r}: neither the template nor the processor knows it")
        return processing, kwargs

    def _argument_names(self) -> dict[str, tuple[str, ...]]:
        return {
            "text_kwargs": _TEXT_NAMES,
            "images_kwargs": tuple(self.image_processor.valid_kwargs.__annotations__),
            "videos_kwargs": tuple(self.video_processor.valid_kwargs.__annotations__),
        }

    def _route(self, kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """`kwargs` for text, images and videos, whether they came flat or in `text_kwargs` and so on."""
        names = self._argument_names()
        routed = {group: dict(kwargs.get(group) or {}) for group in names}
        flat = {**(kwargs.get("common_kwargs") or {}), **kwargs}
        for name, value in flat.items():
            if name in names or name == "common_kwargs":
                continue
            groups = [group for group in names if name in names[group]]
            if not groups:
                raise TypeError(f"VideoXLProcessor got an unknown argument {name!r}")
            for group in groups:
                routed[group].setdefault(name, value)
        return routed

    def _model_inputs(self, rows: list[list[int]], images: Any, videos: Any, kwargs: dict[str, Any]) -> BatchFeature:
        """Model inputs of prompts whose placeholders still stand for one whole item each."""
        kwargs = self._route(kwargs)
        text_kwargs = kwargs.pop("text_kwargs")
        visuals = self.visual_inputs(rows, images, videos, **kwargs)
        if not text_kwargs.pop("return_metadata", False):
            visuals.pop("video_metadata", None)
        return_tensors = text_kwargs.pop("return_tensors", "pt")
        batch = pad_rows(self.expand(rows, visuals), self.tokenizer, return_tensors=return_tensors, **text_kwargs)
        keep = ["pixel_values", "pixel_values_videos", "image_sizes", "video_metadata"]
        return BatchFeature({**batch, **visuals}, tensor_type=return_tensors, skip_tensor_conversion=keep)

    def visual_inputs(self, rows: list[list[int]], images: Any = None, videos: Any = None, **kwargs: Any) -> dict:
        """
        The pixel values, as named in [`__call__`], of the items that stand in `rows`, prompts as [`encode_chats`]
        makes them. `images`, `videos` and `kwargs` are those of [`__call__`].
        """
        kwargs = self._route(kwargs)
        if kwargs["images_kwargs"].get("as_frames"):
            return self._frames_of_images(rows, images, videos, kwargs["images_kwargs"])
        return self._images(rows, images, kwargs["images_kwargs"]) | self._videos(
            rows, videos, kwargs["videos_kwargs"]
        )

    def expand(self, rows: list[list[int]], visuals: Mapping[str, Any]) -> list[list[int]]:
        """`rows` with one placeholder per visual token; `visuals` holds the items of all rows, in order."""
        spans = {
            self.image_token_id: [len(tiles) * self.tokens_per_tile for tiles in visuals.get("pixel_values", [])],
            self.video_token_id: [len(v) * self.tokens_per_frame for v in visuals.get("pixel_values_videos", [])],
        }
        return expand_placeholders(rows, spans)

    def _images(self, rows: list[list[int]], images: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        counts = [row.count(self.image_token_id) for row in rows]
        flat = items_in_order(images, counts, is_image, "image", self.image_token)
        return dict(self.image_processor(flat, **kwargs)) if flat else {}

    def _videos(self, rows: list[list[int]], videos: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        counts = [row.count(self.video_token_id) for row in rows]
        flat = items_in_order(videos, counts, is_video, "video", self.video_token)
        # one list deeper: a video may itself be a list of its pictures' names
        return dict(self.video_processor([flat], **kwargs)) if flat else {}

    def _frames_of_images(
        self, rows: list[list[int]], images: Any, videos: Any, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """All images of a row as the frames of its one `<video>`."""
        nested = nested_rows(videos, is_video)
        videos_given = videos is not None if nested is None else any(nested)
        if videos_given:
            raise ValueError("as_frames=True makes images take the <video> placeholders: give images or videos")
        per_row = nested_rows(images, is_image) or [[images] if is_image(images) else list(images or [])]
        counts = [row.count(self.video_token_id) for row in rows]
        if [int(bool(row)) for row in per_row] != counts:
            raise ValueError(
                f"as_frames=True needs one {self.video_token} in each prompt with images, and one list of images per "
                f"prompt; the prompts hold {counts}, images were given for {[len(row) for row in per_row]}"
            )
        spans = [self.image_processor(row, **kwargs)["pixel_values_videos"][0] for row in per_row if row]
        return {"pixel_values_videos": spans}


def is_batch(conversation: Any) -> bool:
    """Whether these are several conversations."""
    return (
        isinstance(conversation, (list, tuple)) and bool(conversation) and isinstance(conversation[0], (list, tuple))
    )


def is_image(item: Any) -> bool:
    is_array = isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim in (2, 3)
    return is_array or isinstance(item, (Image.Image, str, os.PathLike))


def is_video(item: Any) -> bool:
    """Paths in a list are several videos, images in a list are the frames of one."""
    if isinstance(item, (list, tuple)):
        return len(item) > 0 and all(is_image(frame) and not isinstance(frame, (str, os.PathLike)) for frame in item)
    return isinstance(item, (str, os.PathLike)) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 4)


def nested_rows(items: Any, is_item: Callable[[Any], bool]) -> list[list[Any]] | None:
    """`items` as one list per prompt, if that is how they are given."""
    if not isinstance(items, (list, tuple)) or is_item(items):
        return None
    if not any(row is None or (isinstance(row, (list, tuple)) and not is_item(row)) for row in items):
        return None
    return [[] if row is None else [row] if is_item(row) else list(row) for row in items]


def items_in_order(
    items: Any, counts: Sequence[int], is_item: Callable[[Any], bool], name: str, token: str
) -> list[Any]:
    """`items` as one flat list, checked to be as many as the prompts have placeholders (`counts`, one per prompt)."""
    rows = nested_rows(items, is_item)
    if rows is None:
        flat = [] if items is None else [items] if is_item(items) or not isinstance(items, Sequence) else list(items)
        if len(flat) != sum(counts):
            raise ValueError(f"the text holds {sum(counts)} {token}, but {len(flat)} {name}s were given")
        return flat
    if len(rows) != len(counts):
        raise ValueError(f"{name}s were given for {len(rows)} prompts, but there are {len(counts)} prompts")
    for place, (row, count) in enumerate(zip(rows, counts)):
        if len(row) != count:
            raise ValueError(f"prompt {place} holds {count} {token}, but {len(row)} {name}s were given for it")
    return [item for row in rows for item in row]


def expand_placeholders(ids: list[list[int]], spans: dict[int, list[int]]) -> list[list[int]]:
    """Each placeholder repeated once per visual token: `spans` gives the lengths per id, in order over all rows."""
    lengths = {token: iter(counts) for token, counts in spans.items()}
    expanded: list[list[int]] = []
    for row in ids:
        expanded.append([])
        for token in row:
            expanded[-1] += [token] * (next(lengths[token]) if token in lengths else 1)
    return expanded


def pad_rows(
    ids: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    return_tensors: str | None = "pt",
    padding: bool | str = True,
    padding_side: str = "left",
) -> dict[str, list[list[int]]]:
    """`input_ids` and `attention_mask`, the shorter rows filled up (on the left, where generation needs it)."""
    if padding not in (True, False, "longest") or padding_side not in ("left", "right"):
        raise ValueError(f"padding is True or False and padding_side left or right, got {padding!r}, {padding_side!r}")
    longest = max(map(len, ids))
    unequal = any(len(row) != longest for row in ids)
    if unequal and not padding and return_tensors is not None:
        raise ValueError(f"rows of {sorted({len(row) for row in ids})} tokens make no tensor without padding=True")
    if not unequal or not padding:
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if fill is None:
        raise ValueError("the tokenizer has no pad token to fill shorter rows with: set tokenizer.pad_token")
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for row in ids:
        gap = longest - len(row)
        pads, zeros, ones = [fill] * gap, [0] * gap, [1] * len(row)
        batch["input_ids"].append(pads + row if padding_side == "left" else row + pads)
        batch["attention_mask"].append(zeros + ones if padding_side == "left" else ones + zeros)
    return batch


__all__ = ["CHAT_TEMPLATE", "VideoXLProcessor", "add_placeholder_tokens"]
