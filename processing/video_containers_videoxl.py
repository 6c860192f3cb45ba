"""Whether a video file holds all the bytes that its own header promises."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_EBML_HEADER, _EBML_SEGMENT = 0x1A45DFA3, 0x18538067


def is_cut_short(path: str) -> bool:
    """True if the outermost structure of an mp4/mov, mkv/webm, avi or gif file ends beyond the end of the file.

    Decoders pass over such a cut in silence in several of these formats. Formats without an outer size (MPEG-TS,
    raw streams) give False: a shorter stream is a whole stream.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return _boxes_end(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _segment_end(file, size) > size
        if head[:4] == b"RIFF":
            return 8 + struct.unpack("<I", head[4:8])[0] > size
        if head[:4] == b"GIF8":
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\x3b"
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
