"""Names of checkpoints, as people give them."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def naming_checkpoint(setting: str, name: str) -> Iterator[None]:
    """
    What is loaded in the block from a folder or the Hub is named where there is nothing to load. A folder's name that
    is no folder is caught before it is taken for a Hub id.

    Args:
        setting: what the name was given as, for the message.

    Raises:
        FileNotFoundError: if `name` looks like a path, and no folder is there.
        OSError: if it is taken for a Hub id, and nothing can be loaded from there.
    """
    is_folder = os.path.isdir(name)
    if not is_folder and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise FileNotFoundError(f"{setting} {name}: no such folder; give a checkpoint's, or a Hub id as OWNER/NAME")
    try:
        yield
    except OSError as error:
        if is_folder:
            raise
        raise OSError(f"{setting} {name}: no folder here, and as a Hub id it cannot be loaded: {error}") from error
