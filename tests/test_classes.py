"""Class lists of the data sets: whole, unambiguous, and in words."""

from __future__ import annotations

import pytest

from ezsr_shards.datasets import known_classes
from ezsr_shards.importer import _bare

COUNTS = {
    "n-imagenet": 1000,
    "n-caltech101": 101,
    "cifar10-dvs": 10,
    "n-mnist": 10,
    "hardvs": 300,
    "dailydvs-200": 200,
    "daily-action": 12,
    "paf": 10,
    "bullying10k": 10,
    "ucf101-dvs": 101,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_class_is_there_once(name: str) -> None:
    known = known_classes(name)
    assert len(known) == COUNTS[name]
    folders = [_bare(folder) for one in known for folder in one.folders]
    assert len(folders) == len(set(folders))
    for one in known:
        assert one.shown.name == one.shown.name.strip()
        assert one.shown.name.isprintable()
        assert one.shown.name


def test_imagenet_is_named_as_the_authors_name_it() -> None:
    """WordNet's first lemmas, with underscores, in the order of the ids; two come twice."""
    known = [one.shown for one in known_classes("n-imagenet")]
    folders = [str(entry.folder) for entry in known]
    assert folders == sorted(folders)
    assert all(len(folder) == 9 and folder[1:].isdecimal() for folder in folders)
    names = [entry.name for entry in known]
    assert sum("_" in name for name in names) == 414
    assert {name for name in names if names.count(name) > 1} == {"crane", "maillot"}


def test_imagenet_agrees_with_another_list() -> None:
    timm = pytest.importorskip("timm.data", reason="needs pip install 'ezsr[train]'")
    info = timm.ImageNetInfo("imagenet-1k")
    for entry in (one.shown for one in known_classes("n-imagenet")):
        lemmas = info.label_name_to_description(entry.folder, detailed=False)
        assert lemmas.split(",")[0].replace(" ", "_") == entry.name
