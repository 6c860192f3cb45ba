"""The authors' prompt, and its way into token ids that no user's text can bend."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import AddedToken, PreTrainedTokenizerBase

IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<video>"

# The authors' prompt (Qwen2's ChatML): every visual item is its placeholder and a newline.
CHAT_TEMPLATE = r"""
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('roles are system, user and assistant, got: ' + message.role) }}
    {%- endif %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'video' %}
                {{- '<video>\n' }}
            {%- elif part.type == 'image' %}
                {{- '<image>\n' }}
            {%- else %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip()

# Two private-use characters around a number stand for a user's text while a template is rendered.
_OPEN, _CLOSE = "\ue3f0", "\ue3f1"
_STAND_IN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_MEDIA_KEYS = {"video": ("video", "url", "path"), "image": ("image", "url", "path")}


class Piece(NamedTuple):
    """A part of a prompt: `trusted` text may name special tokens (a template's), other text is only ever text."""

    text: str
    trusted: bool


def add_placeholder_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """
    Give `tokenizer` the special tokens `<image>` and `<video>`, the first two ids after its own, unless it has them.

    Returns:
        their ids (image, video): `image_token_id` and `video_token_id` of the model's configuration.
    """
    missing = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN) if token not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    added = tokenizer.get_added_vocab()
    return added[IMAGE_TOKEN], added[VIDEO_TOKEN]


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: Iterable[Piece]) -> list[int]:
    """
    The token ids of a prompt. Special tokens are looked for in trusted pieces alone; the text between two of them is
    encoded in one go, as the tokenizer does it, so that a prompt of harmless texts has its usual ids.

    Raises:
        ValueError: if the tokenizer makes a special token out of plain text all the same.
    """
    added = tokenizer.get_added_vocab()
    longest_first = sorted(added, key=len, reverse=True)
    special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if added else re.compile("((?!))")
    ids: list[int] = []
    plain: list[str] = []
    for text, trusted in pieces:
        parts = special.split(text) if trusted else [text]
        for place, part in enumerate(parts):
            if place % 2 == 0:
                plain.append(part)
                continue
            ids += _encode_plain(tokenizer, "".join(plain), added)
            ids.append(added[part])
            plain = []
    return ids + _encode_plain(tokenizer, "".join(plain), added)


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str, added: Mapping[str, int]) -> list[int]:
    # Not `split_special_tokens=True`: that is a state of the shared tokenizer, which another thread may switch off
    # between setting and encoding, and it still parses added tokens that are not marked special.
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text] if backend.pre_tokenizer is None else [w for w, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    ids = [token.id for word in words for token in backend.model.tokenize(word)]
    if not set(added.values()).isdisjoint(ids):
        raise ValueError("this tokenizer makes special tokens out of plain text: no prompt is safe with it")
    return ids


def check_conversation(conversation: Any) -> None:
    """Raise a `ValueError` that names the message, if `conversation` is no list of well-formed messages."""
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise ValueError("a conversation is a non-empty list of messages such as {'role': 'user', 'content': '...'}")
    for place, message in enumerate(conversation):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {place} must be a dict with a 'role' and a 'content', got {message!r:.200}")
        if not re.fullmatch(r"\w+", message["role"], flags=re.ASCII):
            raise ValueError(f"message {place} has no usable role: {message['role']!r:.200}")
        content = message.get("content")
        if isinstance(content, str):
            check_text(content, f"message {place}")
            continue
        if not isinstance(content, (list, tuple)):
            raise ValueError(f"message {place} needs a 'content': a text or a list of parts, got {content!r:.200}")
        for number, part in enumerate(content):
            _check_part(part, f"message {place}, part {number}")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", *_MEDIA_KEYS):
        raise ValueError(f"{where}: a part is a dict of type 'text', 'image' or 'video', got {part!r:.200}")
    if kind == "text":
        check_text(part.get("text"), f"{where}, 'text'")


def check_text(text: Any, where: str) -> None:
    """Raise a `ValueError` that begins with `where`, if `text` is no text that can be tokenized."""
    if not isinstance(text, str):
        raise ValueError(f"{where}: must be a text, got {text!r:.200}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: the text holds half a surrogate pair at character {error.start}") from error


def media_of(conversation: Sequence[Mapping], kind: str) -> list[Any]:
    """The images or videos (`kind`) of a checked conversation, in order."""
    media = []
    for place, message in enumerate(conversation):
        parts = [] if isinstance(message["content"], str) else message["content"]
        for number, part in enumerate(parts):
            if part["type"] != kind:
                continue
            keys = [key for key in _MEDIA_KEYS[kind] if part.get(key) is not None]
            if len(keys) != 1:
                names = ", ".join(map(repr, _MEDIA_KEYS[kind]))
                raise ValueError(f"message {place}, part {number}: a part of type {kind!r} needs one of {names}")
            media.append(part[keys[0]])
    return media


def with_stand_ins(value: Any, texts: list[str]) -> Any:
    """A copy of messages in which each text is a short stand-in; the texts themselves are appended to `texts`."""
    if isinstance(value, str) and value:
        texts.append(value)
        return f"{_OPEN}{len(texts) - 1}{_CLOSE}"
    if isinstance(value, Mapping):
        # a template chooses by these two; roles are checked to be plain words
        return {key: item if key in ("role", "type") else with_stand_ins(item, texts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_stand_ins(item, texts) for item in value]
    return value


def rendered_pieces(rendered: str, texts: Sequence[str]) -> list[Piece]:
    """
    A prompt rendered from [`with_stand_ins`], the texts back in their places: the template's pieces trusted, they not.

    Raises:
        ValueError: if the template cut a stand-in apart.
    """
    parts = _STAND_IN.split(rendered)
    pieces = []
    for place, part in enumerate(parts):
        if place % 2 == 1:
            pieces.append(Piece(texts[int(part)], trusted=False))
        elif _OPEN in part or _CLOSE in part:
            raise ValueError("the chat template cuts the texts of messages; it may only place them whole")
        else:
            pieces.append(Piece(part, trusted=True))
    return pieces
