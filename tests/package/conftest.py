import pytest

from videoxl.convert.checkpoint_conversion import convert_checkpoint


@pytest.fixture(scope="session")
def converted(authors_checkpoint, tmp_path_factory):
    """The goldens' checkpoint, converted."""
    dest = tmp_path_factory.mktemp("converted") / "checkpoint"
    convert_checkpoint(authors_checkpoint, dest, vision_tower=authors_checkpoint / "clip")
    return dest
