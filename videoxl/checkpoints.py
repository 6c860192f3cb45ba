"""Names of checkpoints, as people give them."""

import os


def check_checkpoint_name(setting: str, name: str) -> None:
    """
    Catches a folder's name that is no folder, before it is taken for a Hub id.

    Args:
        setting: what the name was given as, for the message.

    Raises:
        FileNotFoundError: if `name` looks like a path, and no folder is there.
    """
    if not os.path.isdir(name) and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise FileNotFoundError(f"{setting} {name}: no such folder; give a checkpoint's, or a Hub id as OWNER/NAME")
