from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from ezsr_shards.errors import InputError
from ezsr_synth.toy import (
    CLASS_NAMES,
    SHAPES,
    TEXTURES,
    UNSEEN,
    ToySpec,
    draw_toy,
    parse_toy,
    toy_label,
)

SPLITS = ("seen", "unseen", "all")
SIZE_PX = 96
MARGIN_PX = 2  # what lies that near to the border is backdrop


@pytest.fixture(scope="module")
def gallery() -> dict[int, list[np.ndarray]]:
    """Return three pictures of every class, by label."""
    pictures: dict[int, list[np.ndarray]] = {label: [] for label in range(len(CLASS_NAMES))}
    for index in range(3 * len(CLASS_NAMES)):
        pictures[toy_label(index, "all")].append(draw_toy(index, "all", SIZE_PX))
    return pictures


def steps(rgb: np.ndarray) -> np.ndarray:
    """Return the change of log luminance between pixels, which is what an event camera sees."""
    luminance = (rgb / 255.0) ** 2 @ [0.2126, 0.7152, 0.0722]
    log = np.log(luminance + 0.02)
    return np.hypot(np.diff(log, axis=0)[:, :-1], np.diff(log, axis=1)[:-1])


def border(steps: np.ndarray) -> np.ndarray:
    inner = np.zeros(steps.shape, bool)
    inner[MARGIN_PX - 1 : 1 - MARGIN_PX, MARGIN_PX - 1 : 1 - MARGIN_PX] = True
    return steps[~inner]


# Classes


def test_classes_are_all_compositions_shape_by_shape():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == len(SHAPES) * len(TEXTURES)
    for label, name in enumerate(CLASS_NAMES):
        _, texture, shape = name.split(" ")
        assert (SHAPES.index(shape), TEXTURES.index(texture)) == divmod(label, len(TEXTURES))


def test_articles_fit_the_word_that_follows():
    for name in CLASS_NAMES:
        article, texture, _ = name.split(" ")
        assert article == ("an" if texture[0] in "aeiou" else "a"), name


def test_held_out_classes_never_change():
    held_out = [2, 7, 11, 12, 16, 21, 26, 31, 35, 36, 40, 45, 50, 55, 59]
    assert sorted(UNSEEN) == held_out


def test_every_shape_and_texture_is_both_seen_and_held_out():
    seen = [divmod(n, len(TEXTURES)) for n in range(len(CLASS_NAMES)) if n not in UNSEEN]
    unseen = [divmod(label, len(TEXTURES)) for label in UNSEEN]
    for part, among in ((0, len(SHAPES)), (1, len(TEXTURES))):
        assert min(Counter(pair[part] for pair in seen)[n] for n in range(among)) >= 4
        assert min(Counter(pair[part] for pair in unseen)[n] for n in range(among)) >= 1


@pytest.mark.parametrize("split", SPLITS)
def test_labels_take_turns(split: str):
    seen: Counter[int] = Counter()
    classes = {toy_label(index, split) for index in range(len(CLASS_NAMES))}
    for index in range(150):
        seen[toy_label(index, split)] += 1
        counts = [seen[label] for label in classes]
        assert max(counts) - min(counts) <= 1


def test_splits_part_the_classes():
    seen, unseen, both = ({toy_label(index, split) for index in range(200)} for split in SPLITS)
    assert unseen == UNSEEN
    assert not seen & unseen
    assert seen | unseen == both == set(range(len(CLASS_NAMES)))


def test_few_pictures_show_many_shapes_and_textures():
    pairs = [divmod(toy_label(index, "seen"), len(TEXTURES)) for index in range(12)]
    assert len({shape for shape, _ in pairs}) >= 8
    assert len({texture for _, texture in pairs}) >= 5


# The words on the command line


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("toy:200", ToySpec(200, "seen")),
        ("toy:1:unseen", ToySpec(1, "unseen")),
        ("toy:1000000000:all", ToySpec(10**9, "all")),
        ("toy:7:seen", ToySpec(7, "seen")),
    ],
)
def test_parse(text: str, spec: ToySpec):
    assert parse_toy(text) == spec


@pytest.mark.parametrize(
    ("text", "value", "remedy"),
    [
        ("toy", "''", "toy:200"),
        ("toy:", "''", "toy:200"),
        ("toys:5", "'5'", "toy:200"),
        ("toy:0", "'0'", "toy:200"),
        ("toy:-3", "'-3'", "toy:200"),
        ("toy:1_000", "'1_000'", "toy:200"),
        ("toy:٣", "'٣'", "toy:200"),
        ("toy:1000000001", "'1000000001'", "from 1 to 1000000000"),
        ("toy:" + "9" * 5000, "999", "from 1 to 1000000000"),
        ("toy:5:", "''", "toy:5:unseen"),
        ("toy:5:test", "'test'", "toy:5:unseen"),
        ("toy:5:all:1", "'all:1'", "toy:5:all"),
    ],
)
def test_parse_says_what_is_wrong_and_what_to_write(text: str, value: str, remedy: str):
    with pytest.raises(InputError) as caught:
        parse_toy(text)
    message = str(caught.value)
    assert message.startswith(f"IMAGES {text!r}: ")
    assert value in message.removeprefix(f"IMAGES {text!r}: ")
    assert remedy in message
    assert "\n" not in message


# Pictures


@pytest.mark.parametrize("size_px", [16, 64, 97, 256])
def test_pictures_are_rgb_bytes(size_px: int):
    rgb = draw_toy(5, "seen", size_px)
    assert (rgb.shape, rgb.dtype) == ((size_px, size_px, 3), np.uint8)
    assert int(rgb.max()) - int(rgb.min()) > 80


def test_pictures_do_not_depend_on_order_or_process():
    order = [3, 0, 10**9 - 1, 7]
    script = (
        "import hashlib, sys; from ezsr_synth.toy import draw_toy; "
        "[print(hashlib.sha256(draw_toy(int(n), 'seen', 64)).hexdigest()) for n in sys.argv[1:]]"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, *map(str, order)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    here = {n: hashlib.sha256(draw_toy(n, "seen", 64)).hexdigest() for n in reversed(order)}
    assert printed == [here[n] for n in order]


def test_no_two_pictures_are_alike():
    pictures = [draw_toy(index, split, 32) for split in SPLITS for index in range(60)]
    assert len({rgb.tobytes() for rgb in pictures}) == len(pictures)


def test_size_changes_the_sampling_and_not_the_picture():
    differences = []
    for index in range(len(CLASS_NAMES)):
        large, small = (draw_toy(index, "all", size_px) for size_px in (256, 64))
        shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
        differences.append(np.abs(shrunk.astype(int) - small).mean())
    assert max(differences) < 2.0
    assert np.mean(differences) < 0.9


def test_the_shape_lies_in_the_picture_and_outshines_the_backdrop(gallery):
    for label, pictures in gallery.items():
        for rgb in pictures:
            change = steps(rgb)
            backdrop, edges = border(change).max(), np.percentile(change, 99)
            assert edges > 0.25, CLASS_NAMES[label]
            assert edges > 3 * backdrop, CLASS_NAMES[label]


def test_every_texture_adds_edges_to_every_shape(gallery):
    drawn = {
        label: np.mean([(steps(rgb) > 0.2).mean() for rgb in pictures])
        for label, pictures in gallery.items()
    }
    for label, share in drawn.items():
        shape, texture = divmod(label, len(TEXTURES))
        plain = drawn[shape * len(TEXTURES) + TEXTURES.index("plain")]
        assert texture == TEXTURES.index("plain") or share > 1.3 * plain, CLASS_NAMES[label]
