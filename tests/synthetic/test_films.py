"""Drawn films: functions of their seed, needles in exactly one frame, written files that show the same."""

import itertools

import numpy as np
import pytest

from videoxl.synthetic.backgrounds import FAMILIES, Background
from videoxl.synthetic.films import Film, write_film
from videoxl.synthetic.needles import COLOURS, SPLITS, VALUES, Needle, colours_of, overlay

STAR = Needle("symbol", "star", "red", 5)


def test_a_frame_depends_on_seed_and_index_alone():
    one, other = Film(3, 200), Film(3, 200)
    backwards = [other.frame(index) for index in (150, 149, 20, 3, 90)]
    for index, frame in zip((150, 149, 20, 3, 90), backwards):
        np.testing.assert_array_equal(one.frame(index), frame)
    np.testing.assert_array_equal(one.array(88, 92)[2], backwards[4])
    np.testing.assert_array_equal(np.concatenate(list(one.chunks(64))), one.array())


def test_longer_films_begin_as_shorter_ones():
    np.testing.assert_array_equal(Film(3, 20).array(), Film(3, 3000).array(0, 20))


def test_no_two_films_look_alike_and_each_moves():
    films = [
        Film(seed, 60)
        .array(
            0,
            60,
        )
        .astype(int)
        for seed in range(12)
    ]
    for one, other in itertools.combinations(films, 2):
        assert np.abs(one - other).mean() > 10
    for film in films:
        assert np.abs(film[0] - film[-1]).mean() > 1


def test_every_family_of_backgrounds_is_met():
    seen = set()
    for seed in range(40):
        background = Background(seed, 32)
        background.frame(0)
        seen.add(background._scene[1].__qualname__.split(".")[0])
    assert seen == {draw.__name__ for draw in FAMILIES.values()}


def test_a_needle_is_one_frame():
    plain, film = Film(9, 50), Film(9, 50, ((17, STAR),))
    changed = [index for index in range(50) if not np.array_equal(plain.frame(index), film.frame(index))]
    assert changed == [17]
    np.testing.assert_array_equal(film.frame(17), overlay(plain.frame(17), STAR))


def test_looks_vary_and_nothing_else_does():
    ground = np.full((64, 64, 3), 128, np.uint8)
    drawn = [overlay(ground, Needle("letter", "K", "blue", look)) for look in range(20)]
    assert len({frame.tobytes() for frame in drawn}) == 20
    for frame in drawn:  # every card is blue: where it differs from the ground, most pixels are near the colour
        card = frame[np.abs(frame.astype(int) - 128).sum(-1) > 30].astype(int)
        near = np.abs(card - COLOURS["blue"]).max(-1) < 60
        assert near.mean() > 0.4 and len(card) > 0.25 * 64 * 64
    assert (ground == 128).all()


@pytest.mark.parametrize("kind", VALUES)
def test_values_look_different(kind):
    ground = np.full((96, 64, 3), 90, np.uint8)  # not square, too
    colour = "" if kind == "anomaly" else "red"
    drawn = [overlay(ground, Needle(kind, value, colour, 3)).astype(int) for value in VALUES[kind]]
    for one, other in itertools.combinations(drawn, 2):
        assert np.abs(one - other).mean() > 1


def test_splits_share_no_pair_of_value_and_colour():
    for kind, values in VALUES.items():
        for value in values:
            shown = [set(colours_of(split, kind, value)) for split in SPLITS]
            if kind == "anomaly":
                assert shown == [{""}] * 3
                continue
            assert shown[0] | shown[1] | shown[2] == set(COLOURS)
            assert sum(map(len, shown)) == len(COLOURS) and all(shown)


def test_a_written_film_shows_the_needle_in_its_frame_alone(tmp_path):
    import av

    film = Film(4, 30, ((11, STAR), (12, Needle("anomaly", "static"))))
    path = write_film(film, tmp_path / "film.mp4", rate=2)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 30
    for index, frame in enumerate(frames):
        distances = [np.abs(frame.astype(int) - film.frame(other)).mean() for other in range(30)]
        assert distances[index] < 16
        if index in (11, 12):
            assert int(np.argmin(distances)) == index


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Film(0, 0), "a film of 0 frames"),
        (lambda: Film(0, 5, ((5, STAR),)), r"cannot show needles at \[5\]"),
        (lambda: Film(0, 5, ((3, STAR), (1, STAR))), "in order"),
        (lambda: Film(0, 5, ((3, STAR), (3, STAR))), "a frame of its own"),
        (lambda: Needle("letter", "Ä", "red"), "no such kind or value"),
        (lambda: Needle("letter", "K", "pink"), "colour='pink'"),
        (lambda: Needle("anomaly", "static", "red"), "colour='red'"),
        (lambda: colours_of("exam", "letter", "K"), "split='exam'"),
    ],
)
def test_what_cannot_be_drawn(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_frame_outside_the_film():
    with pytest.raises(IndexError, match="frame 5 of a film of 5"):
        Film(0, 5).frame(5)
