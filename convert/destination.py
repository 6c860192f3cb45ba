"""A folder that appears whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(dest: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    Gives a folder beside `dest` to write into; when the block ends well, that folder becomes `dest`.

    An interruption leaves nothing under the name `dest`; what was there before stays until the new one is whole.

    Raises:
        FileExistsError: if `dest` holds something and `overwrite` is not set, or holds something that is no Video-XL
            model, which is never overwritten.
    """
    dest = Path(dest).absolute()
    _refuse_to_overwrite(dest, overwrite)
    dest.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{dest.name}.unfinished-", dir=dest.parent))
    work = hidden / dest.name  # inside, so that it gets the usual permissions and not mkdtemp's
    try:
        work.mkdir()
        yield work
        _put_in_place(work, dest)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _refuse_to_overwrite(dest: Path, overwrite: bool) -> None:
    if dest.is_dir() and not any(dest.iterdir()):
        return
    if dest.exists() and not overwrite:
        raise FileExistsError(f"{dest} exists and is not empty: give another folder, or overwrite (--overwrite).")
    if dest.exists() and not _is_our_model(dest):
        raise FileExistsError(f"{dest} holds something other than a Video-XL model, which is never overwritten.")


def _is_our_model(folder: Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "videoxl"
    except (OSError, ValueError, AttributeError):
        return False


def _put_in_place(work: Path, dest: Path) -> None:
    if not dest.exists():
        work.rename(dest)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{dest.name}.old-", dir=dest.parent))
    dest.rename(old / dest.name)
    work.rename(dest)
    shutil.rmtree(old)
