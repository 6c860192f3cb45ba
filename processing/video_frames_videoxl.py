"""Decoded frames and their times: what is true of them whatever decodes them."""

from __future__ import annotations

from typing import Any

import numpy as np

#: H.264's kind of unit for a slice of a picture before which the decoder forgets everything.
_IDR_SLICE = 5
#: Before the first slice of a sound packet stand fewer units than these; a hostile one may be made of millions.
_MOST_UNITS = 1000


def upright(frame: Any, image: np.ndarray) -> np.ndarray:
    """`image` [H, W, C] turned and mirrored as the frame's display matrix says (quarter turns)."""
    matrix = frame.side_data.get("DISPLAYMATRIX") if frame.rotation or len(frame.side_data) else None
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype="<i4")[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.transpose(1, 0, 2)
        flip_x, flip_y = c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    image = image[:, ::-1] if flip_x else image
    image = image[::-1] if flip_y else image
    return np.ascontiguousarray(image)


def ascending(times: np.ndarray, step: float) -> np.ndarray:
    """Ascending times of frames in display order, whose own may be missing (nan), exchanged or jump."""
    if len(times) < 2 or bool(np.all(np.diff(times) > 0)):
        return np.nan_to_num(times)
    order = np.argsort(times, kind="stable")
    in_order = times[order]
    exchanged = np.abs(order - np.arange(len(times))).max() <= 32
    if exchanged and bool(np.all(np.diff(in_order) > 0)):
        return in_order
    return np.arange(len(times)) * step


def has_leading_frames(decode_order: list[int], key_times: list[int]) -> bool:
    """Whether a frame is decoded after a keyframe but shown before it (open GOP)."""
    keys, last_key = set(key_times), None
    for pts in decode_order:
        if pts in keys:
            last_key = pts
        elif last_key is not None and pts < last_key:
            return True
    return False


def starts_anew(packet: Any, context: Any) -> bool:
    """Whether a keyframe can be decoded without any packet before it, as far as is known.

    In H.264 packets count as keyframes, too, from which on pictures only become whole little by little; an IDR slice
    tells the others from them.
    """
    if context.name != "h264":
        return True
    header = bytes(context.extradata or b"")
    if len(header) < 5 or header[0] != 1:  # its units have no lengths
        return False
    data, place, width = memoryview(packet), 0, (header[4] & 3) + 1
    for _ in range(_MOST_UNITS):
        if place + width >= len(data):
            break
        if data[place + width] & 31 == _IDR_SLICE:
            return True
        place += width + int.from_bytes(data[place : place + width], "big")
    return False


def words_of_error(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
