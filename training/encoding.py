"""A row of annotations as token ids and labels."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from videoxl.processing.processing_videoxl import VideoXLProcessor
from videoxl.processing.prompt_videoxl import Piece, encode_pieces

MEDIA = ("video", "image")
PIXELS = "pixel_values_videos"  # of a row whose video is processed already
VISUAL_MARK = "<image>"  # in the authors' annotations it stands for videos, too
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
NOTHING = -100  # the label of a token that is not learned
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


def row_name(row: Mapping[str, Any]) -> str:
    """How errors name a row."""
    return f"row {row.get('id', '(without id)')!r}"


def check_conversations(row: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: if the row holds no conversation of humans' questions and non-empty answers; names row and turn.
    """
    turns = row.get("conversations")
    if not isinstance(turns, (list, tuple)) or not turns:
        raise ValueError(f"{row_name(row)} has no 'conversations': a list of {{'from': 'human'|'gpt', 'value': …}}")
    for place, turn in enumerate(turns):
        known = isinstance(turn, Mapping) and turn.get("from") in ROLES and isinstance(turn.get("value"), str)
        if not known:
            raise ValueError(
                f"{row_name(row)}, turn {place}: needs 'from' (one of {', '.join(ROLES)}) and a text as 'value', "
                f"got {turn!r:.200}"
            )
        if turn["from"] == "gpt" and not turn["value"].strip():
            raise ValueError(f"{row_name(row)}, turn {place}: the answer is empty: there is nothing to learn from it")
        if turn["from"] == "system" and place:
            raise ValueError(f"{row_name(row)}, turn {place}: a system text comes first or not at all")
    asked = [turn["from"] for turn in turns if turn["from"] != "system"]
    if asked != ["human", "gpt"] * (len(asked) // 2) or not asked:
        raise ValueError(f"{row_name(row)}: humans and gpt take turns, human first and gpt last, got {asked}")


def check_media(row: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: if the row's `<image>` are not as many as what they stand for; gives both counts.
    """
    given = [name for name in (*MEDIA, PIXELS) if row.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"{row_name(row)} holds {' and '.join(given)}: give one of them")
    marks = sum(turn["value"].count(VISUAL_MARK) for turn in row["conversations"] if turn["from"] == "human")
    items = _items(row)
    one_span = len(items) > 1 and marks == 1  # several pictures as the frames of one film
    if marks != len(items) and not one_span:
        raise ValueError(
            f"{row_name(row)}: its questions hold {marks} {VISUAL_MARK}, but it has {len(items)} videos or images"
        )


def _items(row: Mapping[str, Any]) -> list[Any]:
    """What the row's `<image>` stand for, a video as one item."""
    if row.get("image") is not None:
        return list(row["image"]) if isinstance(row["image"], (list, tuple)) else [row["image"]]
    video = row.get("video", row.get(PIXELS))
    several = isinstance(video, (list, tuple)) and all(isinstance(item, (str, os.PathLike)) for item in video)
    return list(video) if several else [] if video is None else [video]


def media_items(row: Mapping[str, Any]) -> tuple[str | None, list[Any]]:
    """
    How the row's visuals are to be processed, and what they are.

    Returns:
        `"image"`: one image, in tiles; `"frames"`: several images, each a frame; `"video"`; `PIXELS`; or None.
    """
    items = _items(row)
    if not items:
        return None, []
    if row.get("image") is not None:
        return ("image" if len(items) == 1 else "frames"), items
    return (PIXELS if row.get(PIXELS) is not None else "video"), items


def as_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's turns as messages of the processor's chat template, in which media are there but empty."""
    kind = "image" if media_items(row)[0] == "image" else "video"
    messages = []
    for turn in row["conversations"]:
        text = turn["value"]
        if turn["from"] == "human" and VISUAL_MARK in text:
            messages.append({"role": "user", "content": _parts(text, kind)})
        else:
            messages.append({"role": ROLES[turn["from"]], "content": text.strip() if turn["from"] == "gpt" else text})
    return messages


def _parts(text: str, kind: str) -> list[dict[str, Any]]:
    """The template ends a visual item with a newline, so one that the annotation has there is not doubled."""
    first, *others = text.split(VISUAL_MARK)
    parts = [{"type": "text", "text": first}] if first else []
    for other in others:
        other = other.removeprefix("\n")
        parts += [{"type": kind}, *([{"type": "text", "text": other}] if other else [])]
    return parts


class Labeller:
    """
    Finds in a prompt's ids what is to be learned: the assistant's texts, each with its `<|im_end|>` and newline.

    Texts of users can never become `<|im_start|>` or `<|im_end|>` ids, so these two mark the turns for certain.

    Args:
        processor: whose tokenizer and template make the prompts.
        label_turn_marks: learn every turn's `<|im_start|>`, `<|im_end|>` and newline, as the authors do.

    Raises:
        ValueError: if the tokenizer has no such tokens.
    """

    def __init__(self, processor: VideoXLProcessor, label_turn_marks: bool = False):
        vocabulary = processor.tokenizer.get_added_vocab()
        missing = [token for token in (TURN_START, TURN_END) if token not in vocabulary]
        if missing:
            raise ValueError(
                f"the tokenizer has no {' and no '.join(missing)}, which mark the turns of a conversation"
            )
        self.start, self.end = vocabulary[TURN_START], vocabulary[TURN_END]
        self.header, self.newline = (
            encode_pieces(processor.tokenizer, [Piece(text, trusted=False)]) for text in ("assistant\n", "\n")
        )
        self.label_turn_marks = label_turn_marks

    def labels(self, ids: Sequence[int]) -> list[int]:
        """
        The labels of `ids`, a whole conversation's: the id itself, or -100.

        Raises:
            ValueError: if no answer is found in them, because a chat template of another form wrote them.
        """
        answers = 0
        labels = [NOTHING] * len(ids)
        starts = [place for place, token in enumerate(ids) if token == self.start]
        for start in starts:
            end = ids.index(self.end, start) if self.end in ids[start:] else len(ids)
            stop = end + 1 + len(self.newline)
            text = start + 1 + len(self.header)
            if list(ids[start + 1 : text]) == self.header:
                labels[text:stop] = ids[text:stop]
                answers += 1
            elif self.label_turn_marks:
                labels[end:stop] = ids[end:stop]
            if self.label_turn_marks:
                labels[start] = self.start
        if not answers:
            raise ValueError(f"the chat template writes no {TURN_START}assistant … {TURN_END}: nothing can be learned")
        return labels


def encode_row(processor: VideoXLProcessor, row: Mapping[str, Any]) -> list[int]:
    """
    The ids of a checked row's conversation, one placeholder for each video or image.

    They begin with the ids that `processor.apply_chat_template` gives at inference for the same turns.
    """
    return processor.encode_chats([as_messages(row)])[0]
