"""The small checkpoint that comes with the package."""

from pathlib import Path

FOLDER = Path(__file__).parent / "videoxl_tiny"


def tiny_checkpoint() -> Path:
    """
    The folder of videoxl-tiny: a Video-XL of about 4.9 M parameters that was trained on drawn films
    (`videoxl.synthetic`) by `make train-tiny`, with its tokenizer and processor.

    Returns:
        `Path`: for `pipeline(model=…)` and every `from_pretrained`.

    Raises:
        FileNotFoundError: if the package was installed without it.
    """
    if not (FOLDER / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{FOLDER}: the small checkpoint is not there, as it is in the repository and in the wheel. Name another "
            "one (--model, VIDEOXL_MODEL), or make it with `make train-tiny` and copy .tiny/checkpoint there."
        )
    return FOLDER
