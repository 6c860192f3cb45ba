"""Results as JSON lines, which a run that was stopped goes on with."""

import hashlib
import json
import os
from pathlib import Path

import torch

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of an element, bytes


class ResultLines:
    """
    A file of results: a first line of settings, then one line for each piece of work that is done.

    Args:
        path: of the file, made where there is none.
        settings: what all lines depend on.

    Raises:
        ValueError: where the file's lines were made with other settings, or the file is none of ours.
    """

    def __init__(self, path: str | Path, settings: dict):
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))
        self.lines: list[dict] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._read()
        if not self.path.exists() or not self.path.stat().st_size:
            self._append({"settings": self.settings})

    def add(self, line: dict) -> None:
        """Puts down one line. It is whole on the disk when this returns."""
        self._append(line)
        self.lines.append(line)

    def _append(self, line: dict) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        parsed = []
        # Not `splitlines`: a reply may hold characters that end lines elsewhere, but not in JSON lines.
        for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], start=1):
            try:
                parsed.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: no JSON ({error}). Give another --output.") from error
        if parsed or not _may_be_cut(content):
            self._check_settings(parsed[0] if parsed else None)
        if len(whole) < len(content):  # a run was stopped in the middle of a line
            os.truncate(self.path, len(whole))
        self.lines = parsed[1:]

    def _check_settings(self, first) -> None:
        if not isinstance(first, dict) or not isinstance(first.get("settings"), dict):
            raise ValueError(f"{self.path} holds no results of this command. Give another --output.")
        before = first["settings"]
        names = [name for name in {**before, **self.settings} if before.get(name) != self.settings.get(name)]
        if names:
            changes = ", ".join(f"{name}={before.get(name)!r}, now {self.settings.get(name)!r}" for name in names)
            raise ValueError(
                f"{self.path} holds results of other settings ({changes}). Give another --output, or the settings of "
                "before to go on there."
            )


def _may_be_cut(content: bytes) -> bool:
    """Whether a file without a whole line can be the beginning of a settings line."""
    return b'{"settings": '.startswith(content[:13]) and b"\n" not in content


def fingerprint(model) -> str:
    """
    Eight letters that stand for a model's weights: of every tensor its name, its shape and of each row the sum of its
    bits, as a whole number, which is the same in whatever order it is summed up.
    """
    digest = hashlib.sha256()
    for name, weights in model.state_dict().items():
        bits = weights.contiguous().view(BITS[weights.element_size()])
        rows = bits.flatten(1).sum(1, dtype=torch.int64) if bits.dim() > 1 else bits
        digest.update(f"{name} {tuple(weights.shape)}".encode() + rows.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def output_folder(command: str, settings: dict, output: str | Path | None) -> Path:
    """`output`, or a folder in the current one with a name that other settings do not share."""
    if output is not None:
        return Path(output)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return Path(f"videoxl-{command}-{digest[:8]}")


def write_json(path: Path, value) -> None:
    """Writes a summary whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
