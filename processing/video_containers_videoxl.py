"""Whether a video file holds all the bytes that its own header promises."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_EBML_HEADER, _EBML_SEGMENT = 0x1A45DFA3, 0x18538067


def is_cut_short(path: str) -> bool:
    """True if the outermost structure of an mp4/mov, mkv/webm, avi, gif or MPEG-TS file ends beyond the file's end.

    Decoders pass over such a cut in silence in several of these formats. Other formats give False.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(189)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return _boxes_end(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _segment_end(file, size) > size
        if head[:4] == b"RIFF":
            return 8 + struct.unpack("<I", head[4:8])[0] > size
        if head[:4] == b"GIF8":
            return not _gif_has_end(file, head)
        if head[:1] == head[188:189] == b"\x47":
            return size % 188 != 0
    return False


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box of an ISO base media file says that it ends."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, _kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            wide = file.read(8)
            if len(wide) < 8:
                return size + 1
            length = struct.unpack(">Q", wide)[0]
        if length == 0:  # "to the end of the file"
            return size
        if length < 8:  # no box: what follows cannot be judged
            return position
        position += length
    return position


def _gif_has_end(file: BinaryIO, head: bytes) -> bool:
    """Whether a GIF's blocks lead to its trailer (or to something unknown, which cannot be judged)."""
    file.seek(13 + _colour_table(head[10]))
    while kind := file.read(1):
        if kind == b"\x2c":
            image = file.read(9)
            if len(image) < 9:
                return False
            file.seek(_colour_table(image[8]) + 1, os.SEEK_CUR)
        elif kind == b"\x21":
            file.seek(1, os.SEEK_CUR)
        else:
            return True
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    return False


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _segment_end(file: BinaryIO, size: int) -> int:
    """Where the Matroska segment says that it ends; `size` if it does not say."""
    while file.tell() < size:
        element = _read_vint(file, keep_marker=True)
        length = _read_vint(file, keep_marker=False)
        if element is None or length is None:
            return size + 1
        value, unknown = length
        if element[0] == _EBML_SEGMENT:
            return size if unknown else file.tell() + value
        if element[0] != _EBML_HEADER or unknown:
            return size
        file.seek(value, os.SEEK_CUR)
    return size + 1


def _read_vint(file: BinaryIO, *, keep_marker: bool) -> tuple[int, bool] | None:
    """One EBML variable-length integer and whether all its value bits are set; None at the end of the file."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        return None
    number = int.from_bytes(first + rest, "big")
    ones = (1 << 7 * width) - 1
    return (number if keep_marker else number & ones), number & ones == ones
