"""Images into tiles: held against the authors' tiles, and against the rule written out plainly."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from videoxl.processing.image_processing_videoxl import (
    VideoXLImageProcessor,
    fit_and_pad,
    parse_pinpoints,
    select_pinpoint,
)

GOLDEN_PINPOINTS = [(56, 112), (112, 56), (112, 112), (168, 56), (56, 168)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["image0", "image1", "image2"])
def test_tiles_equal_the_authors(goldens, image_processor, name):
    image = goldens[f"{name}.image"]
    out = image_processor(image)
    # The authors' first picture is the squashed whole image that they drop.
    assert torch.equal(out["pixel_values"][0], goldens[f"{name}.pixel_values"][1:])
    assert out["image_sizes"].tolist() == [[image.shape[0], image.shape[1]]]
    width, height = goldens.cases[name]["image_size"]
    assert out["image_sizes"].tolist() == [[height, width]]


@pytest.mark.parametrize("name", ["video2", "video4"])
def test_as_frames_equals_the_authors_frames(goldens, image_processor, name):
    frames = goldens[f"{name}.frames"]
    out = image_processor([Image.fromarray(frame.numpy()) for frame in frames], as_frames=True)
    assert list(out) == ["pixel_values_videos"]
    assert torch.equal(out["pixel_values_videos"][0], goldens[f"{name}.pixel_values"])


def test_every_form_of_an_image_gives_the_same_tiles(image_processor, tmp_path):
    picture = noise(130, 77)
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    forms = [
        picture,
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ]
    out = image_processor(forms)
    assert len(out["pixel_values"]) == len(forms)
    assert out["image_sizes"].tolist() == [[77, 130]] * len(forms)
    for tiles in out["pixel_values"]:
        assert torch.equal(tiles, image_processor(picture)["pixel_values"][0])
        assert tiles.dtype == torch.float32


def test_several_images_are_tiled_each(image_processor):
    pictures = [noise(200, 50), noise(50, 200), noise(112, 112)]
    out = image_processor(pictures)["pixel_values"]
    for picture, tiles in zip(pictures, out):
        assert torch.equal(tiles, image_processor(picture)["pixel_values"][0])
    assert [len(tiles) for tiles in out] == [3, 3, 4]


def test_files_are_turned_upright_opened_images_are_not(image_processor, tmp_path):
    picture = noise(120, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    out = image_processor([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert torch.equal(out["pixel_values"][0], image_processor(upright)["pixel_values"][0])
    assert torch.equal(out["pixel_values"][1], image_processor(picture)["pixel_values"][0])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_modes_become_rgb(image_processor, mode):
    picture = Image.new("I;16", (80, 60), 300) if mode == "I;16" else noise(80, 60).convert(mode)
    tiles = image_processor(picture)["pixel_values"][0]
    assert torch.equal(tiles, image_processor(picture.convert("RGB"))["pixel_values"][0])


# The rule, restated as plainly as it can be


def plain_choice(width, height, pinpoints):
    best = None
    for target_width, target_height in pinpoints:
        scale = min(target_width / width, target_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        waste = target_width * target_height - effective
        if best is None or effective > best[0] or (effective == best[0] and waste < best[1]):
            best = (effective, waste, (target_width, target_height))
    return best[2]


def test_choice_of_pinpoint_follows_the_plain_rule():
    random = np.random.default_rng(1)
    ranges = parse_pinpoints("(1x1),…,(6x6)", 336)
    for width, height in random.integers(1, 3000, (500, 2)).tolist():
        for pinpoints in (GOLDEN_PINPOINTS, ranges, ranges[::-1]):
            assert select_pinpoint(width, height, pinpoints) == plain_choice(width, height, pinpoints)


def test_first_listed_pinpoint_wins_a_tie():
    assert select_pinpoint(50, 50, [(56, 112), (112, 56)]) == (56, 112)
    assert select_pinpoint(50, 50, [(112, 56), (56, 112)]) == (112, 56)


@pytest.mark.parametrize(("width", "height"), [(90, 300), (300, 90), (57, 33), (1, 200), (500, 2), (1000, 1000)])
def test_image_is_centred_on_black(width, height):
    white = Image.new("RGB", (width, height), (255, 255, 255))
    for target in GOLDEN_PINPOINTS:
        canvas = np.asarray(fit_and_pad(white, target))
        assert canvas.shape == (target[1], target[0], 3)
        scale = min(target[0] / width, target[1] / height)
        wanted = [min(math.ceil(side * scale), room) for side, room in zip((width, height), target)]
        if target[0] / width < target[1] / height:
            wanted[0] = target[0]
        else:
            wanted[1] = target[1]
        left, top = ((room - side) // 2 for side, room in zip(wanted, target))
        inside = np.zeros(canvas.shape[:2], bool)
        inside[top : top + wanted[1], left : left + wanted[0]] = True
        assert (canvas[inside] == 255).all()
        assert (canvas[~inside] == 0).all()


def test_tiles_come_row_by_row(image_processor):
    colours = list(itertools.product((0, 255), repeat=2))
    picture = np.zeros((112, 112, 3), np.uint8)
    for place, (red, green) in enumerate(colours):
        top, left = 56 * (place // 2), 56 * (place % 2)
        picture[top : top + 56, left : left + 56, :2] = red, green
    tiles = image_processor(picture)["pixel_values"][0]  # [4, 3, 56, 56]
    plain = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    for tile, (red, green) in zip(tiles, colours):
        colour = Image.new("RGB", (56, 56), (red, green, 0))
        assert torch.equal(tile, torch.as_tensor(plain(colour, return_tensors="pt")["pixel_values"][0]))


# Pinpoints


def test_pinpoints_as_list_literal_and_range():
    pairs = [(336, 672), (672, 336)]
    for given in (pairs, [[336, 672], [672, 336]], "[(336, 672), (672, 336)]", "[[336,672],[672,336]]"):
        assert parse_pinpoints(given, 336) == pairs
    grid = [(w * 14, h * 14) for w in range(1, 7) for h in range(1, 7)]
    for given in ("(1x1),…,(6x6)", "(1x1),...,(6x6)"):
        assert parse_pinpoints(given, 14) == grid
    assert parse_pinpoints("(2x1),...,(3x2)", 10) == [(20, 10), (20, 20), (30, 10), (30, 20)]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "[]",
        "nothing",
        "__import__('os').system('true')",
        "(" * 5000,
        "[(336, 672), (100, 336)]",
        [[336]],
        [[0, 336]],
        [[336, -336]],
        [["336", "336"]],
        [336, 672],
        "(6x6),...,(1x1)",
        None,
        7,
    ],
)
def test_bad_pinpoints_are_named(given):
    with pytest.raises(ValueError, match="image_grid_pinpoints") as error:
        parse_pinpoints(given, 336)
    assert "(1x1),...,(6x6)" in str(error.value)  # what would do


def test_bad_pinpoints_of_a_call_are_named(image_processor):
    with pytest.raises(ValueError, match="100"):
        image_processor(noise(60, 60), image_grid_pinpoints=[[100, 100]])


# Bad images


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("missing.png", "missing.png"),
        (b"bytes", "bytes"),
        (7, "int"),
        ([noise(60, 60)], "list"),
        (np.zeros((5, 5, 3)), "float64"),
        (np.zeros((5, 5, 5), np.uint8), r"\(5, 5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (Image.new("RGB", (0, 5)), "empty"),
        ("https://example.org/a.png", "allow_url=True"),
        ("HTTP://example.org/a.png", "allow_url=True"),
        (None, "NoneType"),
    ],
)
def test_bad_images_are_named_with_their_place(image_processor, image, said):
    with pytest.raises(ValueError, match=f"image 1.*{said}"):
        image_processor([noise(60, 60), image])


def test_no_image_at_all(image_processor):
    with pytest.raises(ValueError, match="at least one"):
        image_processor([])


def test_broken_files_are_named(image_processor, tmp_path):
    noise(200, 200).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "nothing.png").write_bytes(b"")
    flipped = bytearray(whole)
    flipped[20:40] = b"\xff" * 20
    (tmp_path / "flipped.png").write_bytes(bytes(flipped))
    for name in ("half.png", "text.png", "nothing.png", "flipped.png"):
        with pytest.raises(ValueError, match=f"image 0.*{name}"):
            image_processor(tmp_path / name)
    with pytest.raises(ValueError, match="image 0"):
        image_processor(tmp_path)


# Saving


def test_save_and_load(image_processor, tmp_path):
    image_processor.save_pretrained(tmp_path)
    picture = noise(70, 200)
    for loaded in (VideoXLImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is VideoXLImageProcessor
        assert loaded.to_dict() == image_processor.to_dict()
        assert torch.equal(loaded(picture)["pixel_values"][0], image_processor(picture)["pixel_values"][0])


def test_defaults_are_the_published_models():
    tiles = VideoXLImageProcessor()(noise(500, 300))["pixel_values"][0]
    assert tiles.shape == (2, 3, 336, 336)
