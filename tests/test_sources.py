"""Sources: everything the user may call IMAGES, its keys, labels, captions and order."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import smooth_picture, write_picture

from ezsr_shards.errors import ConfigError, InputError
from ezsr_shards.sample import check_key
from ezsr_shards.shard import add_member
from ezsr_synth.decode import PictureError
from ezsr_synth.records import ImageRecord, key_of
from ezsr_synth.sources import Listing, SourceOptions, list_pictures


def records(images: Path | str, **options: object) -> list[ImageRecord]:
    return all_records(list_pictures(str(images), SourceOptions(**options)))  # type: ignore[arg-type]


def all_records(listing: Listing) -> list[ImageRecord]:
    return [record for task in listing.tasks() for record in task.pictures]


def jpeg(seed: int = 0) -> bytes:
    return bytes(cv2.imencode(".jpg", smooth_picture(seed))[1])


def test_class_tree(picture_folder: Path) -> None:
    listing = list_pictures(str(picture_folder), SourceOptions())
    assert [(c.index, c.name, c.folder) for c in listing.classes] == [
        (0, "class a", "class_a"),
        (1, "class b", "class_b"),
        (2, "class c", "class_c"),
    ]
    for record in all_records(listing):
        assert record.class_name == f"class {record.source[6]}"
        assert record.label == "abc".index(record.source[6])
        assert record.decode(10**7).shape == (90, 120, 3)


def test_classnames_map_folders_to_words(picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("class_a tench\nclass_b, great white shark\n")
    (tmp_path / "names.json").write_text('{"class_a": "tench", "class_b": "great white shark"}')
    for name in ("names.txt", "names.json"):
        listing = list_pictures(str(picture_folder), SourceOptions(classnames=str(tmp_path / name)))
        names = [entry.name for entry in listing.classes]
        assert names == ["tench", "great white shark", "class c"]


def test_a_shard_mixes_classes(picture_folder: Path) -> None:
    listing = list_pictures(str(picture_folder), SourceOptions(shard_size=4))
    assert listing.shards == 3
    for task in listing.tasks():
        assert len({record.label for record in task.pictures}) > 1


def test_labels_can_be_forced_or_left_out(picture_folder: Path) -> None:
    assert {record.label for record in records(picture_folder, labels="none")} == {None}
    shutil.move(picture_folder / "class_a", picture_folder / "class_b" / "deeper")
    assert {record.label for record in records(picture_folder)} == {None}, "not one folder deep"
    assert {record.label for record in records(picture_folder, labels="folder")} == {0, 1}
    write_picture(picture_folder / "stray.png", smooth_picture(0))
    with pytest.raises(InputError, match=r"stray\.png"):
        records(picture_folder, labels="folder")


def test_keys_are_unique_safe_and_stable(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a b.jpg", "a_b.jpg", "sub/a.jpg", "sub.dir/x.y.z.jpg", "ü/ß.jpg"]
    names += ["x" * 200 + ".jpg", "...jpg"[1:] + "x.jpg", "-.jpg"]
    for name in names:
        write_picture(tmp_path / "p" / name, smooth_picture(0, 20, 20))
    before = {record.source: record.key for record in records(tmp_path / "p", labels="none")}
    assert len(set(before.values())) == len(before) == len([n for n in names if n[0] != "."])
    for key in before.values():
        check_key(f"{key}_v00")
    write_picture(tmp_path / "p" / "0 first.jpg", smooth_picture(1, 20, 20))
    shutil.move(tmp_path / "p", tmp_path / "moved")
    after = {record.source: record.key for record in records(tmp_path / "moved", labels="none")}
    assert {source: after[source] for source in before} == before


def test_file_names_that_are_no_unicode(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "p")
    os.mkdir(folder)
    with open(os.path.join(folder, b"caf\xe9.jpg"), "wb") as file:
        file.write(jpeg())
    (record,) = records(tmp_path / "p")
    assert record.source == "caf\\xe9.jpg"
    json.dumps(record.source).encode("utf-8")
    assert record.decode(10**7).size


def test_list_keeps_its_order_and_each_path_once(picture_folder: Path, tmp_path: Path) -> None:
    paths = sorted(p.relative_to(tmp_path).as_posix() for p in picture_folder.rglob("*.jpg"))
    order = [paths[5], paths[0], str(tmp_path / paths[3]), paths[5]]
    (tmp_path / "list.txt").write_text("\n".join(order) + "\n\n")
    found = records(tmp_path / "list.txt")
    assert [record.source for record in found] == order[:3]
    assert all(record.decode(10**7).size for record in found)


def test_one_picture(picture_folder: Path) -> None:
    (record,) = records(picture_folder / "class_a" / "image 00.jpg")
    assert record.source == "image 00.jpg"
    assert record.decode(10**7).size


def test_captions_beside_pictures(picture_folder: Path) -> None:
    (picture_folder / "class_a" / "image 00.txt").write_text("  a dog\n on  a beach ")
    (picture_folder / "class_a" / "image 03.txt").write_text(" \n")
    captions = {record.source: record.caption for record in records(picture_folder)}
    assert captions.pop("class_a/image 00.jpg") == "a dog on a beach"
    assert set(captions.values()) == {None}


def test_folders_that_link_to_themselves_end(picture_folder: Path) -> None:
    (picture_folder / "class_a" / "loop").symlink_to(picture_folder)
    elsewhere = picture_folder.parent / "elsewhere"
    write_picture(elsewhere / "linked.jpg", smooth_picture(9))
    (picture_folder / "class_d").symlink_to(elsewhere)
    found = [record.source for record in records(picture_folder, labels="none")]
    assert "class_d/linked.jpg" in found
    assert len(found) == 13


def test_bad_files_are_records_that_say_why(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    reasons = {}
    for record in records(tmp_path):
        with pytest.raises(PictureError) as caught:
            record.decode(10**7)
        reasons[record.source] = caught.value.reason
    assert reasons == {
        "dangling.jpg": "missing",
        "pipe.jpg": "not-a-file",
        "empty.jpg": "empty",
        "text.jpg": "not-an-image",
    }


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            add_member(tar, name, data)
    return path


def img2dataset_members(count: int) -> dict[str, bytes]:
    members = {}
    for n in range(count):
        facts = {
            "caption": f"caption {n}",
            "url": f"https://example.com/{n}.jpg",
            "key": f"{n:09d}",
        }
        members[f"{n:09d}.jpg"] = jpeg(n)
        members[f"{n:09d}.json"] = json.dumps(facts).encode()
        members[f"{n:09d}.txt"] = f"caption {n}".encode()
    return members


def test_img2dataset_output_as_it_is(tmp_path: Path) -> None:
    for n in range(2):
        write_tar(tmp_path / f"{n:05d}.tar", img2dataset_members(3))
        (tmp_path / f"{n:05d}_stats.json").write_text("{}")
        (tmp_path / f"{n:05d}.parquet").touch()
    for images in (
        tmp_path,
        f"{tmp_path}/{{00000..00001}}.tar",
        f"{tmp_path}/00000.tar::{tmp_path}/00001.tar",
    ):
        found = records(images)
        assert len(found) == len({record.key for record in found}) == 6
        assert found[4].source == "00001.tar/000000001.jpg"
        assert found[4].caption == "caption 1"
        assert found[4].url == "https://example.com/1.jpg"
        assert found[4].decode(10**7).size
    assert list_pictures(str(tmp_path), SourceOptions()).pictures is None


def test_tar_labels_names_and_folders(tmp_path: Path) -> None:
    members = {
        "train/a.b.png": b"?",
        "train/a.cls": b"7\n",
        "train/c.JPG": jpeg(),
        "train/c.cls": b"x",
    }
    write_tar(tmp_path / "a.tar", members)
    (tmp_path / "names.json").write_text(json.dumps([f"name {n}" for n in range(9)]))
    options = SourceOptions(classnames=str(tmp_path / "names.json"))
    listing = list_pictures(str(tmp_path / "a.tar"), options)
    assert len(listing.classes) == 9
    (record,) = all_records(listing)
    assert record.source == "a.tar/train/c.jpg"
    with pytest.raises(PictureError, match=r"bad-label"):
        record.decode(10**7)


def test_fields_apart_from_their_picture_still_belong(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.cls": b"7", "b.txt": b"no picture", "c.webp": b"", "c.cls": b"1"}
    write_tar(tmp_path / "a.tar", members)
    found = records(tmp_path / "a.tar")
    assert [(r.source, r.label) for r in found] == [("a.tar/a.jpg", 7), ("a.tar/c.webp", 1)]
    with pytest.raises(PictureError, match="empty"):
        found[1].decode(10**7)


@pytest.mark.parametrize("share", np.linspace(0.02, 0.97, 25))
def test_cut_tars_give_what_is_whole_and_say_so(share: float, tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", img2dataset_members(6)).read_bytes()
    end = len(data.rstrip(b"\0"))
    (tmp_path / "a.tar").write_bytes(data[: int(end * share)])
    *whole, last = records(tmp_path / "a.tar")
    assert len(whole) < 6
    for record in whole:
        assert record.decode(10**7).size
    with pytest.raises(PictureError, match="tar-ends-early"):
        last.decode(10**7)


def test_tars_over_http(tmp_path: Path) -> None:
    import functools
    import http.server
    import threading

    write_tar(tmp_path / "00000.tar", img2dataset_members(3))
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = records(f"{url}/{{00000..00000}}.tar")
        assert [record.caption for record in found] == [f"caption {n}" for n in range(3)]
        with pytest.raises(InputError, match=r"00009\.tar"):
            records(f"{url}/00009.tar")
        server.shutdown()


def make_quiet_handler() -> type:
    import http.server

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    return Handler


QuietHandler = make_quiet_handler()


def test_a_tar_is_never_held_whole(tmp_path: Path) -> None:
    picture = jpeg()
    noise = np.random.default_rng(0).bytes(200_000)
    members = {f"{n:05d}.jpg": picture + noise for n in range(200)}
    write_tar(tmp_path / "a.tar", members)
    del members
    tracemalloc.start()
    assert (
        sum(1 for _ in list_pictures(str(tmp_path / "a.tar"), SourceOptions()).pictures_of(0))
        == 200
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, "one member of 200 kB at a time, not 40 MB"


def test_listing_costs_few_bytes_a_path(tmp_path: Path) -> None:
    count = 50_000
    lines = "\n".join(f"n{n % 1000:08d}/n{n % 1000:08d}_{n}.JPEG" for n in range(count))
    (tmp_path / "list.txt").write_text(lines)
    tracemalloc.start()
    listing = list_pictures(str(tmp_path / "list.txt"), SourceOptions())
    for _ in listing.tasks():
        pass
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert listing.pictures == count
    assert len(listing.classes) == 1000
    assert held / count < 300
    assert peak / count < 450


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("pipe:cat a.tar", "pipe:"),
        ("{a,b}.tar", "no such tar"),
        ("https://example.com/pictures.zip", "expected a .tar"),
        ("toy:0", "toy"),
        ("toy:x", "toy"),
        ("toy:5:sometimes", "toy"),
        ("empty", "no pictures"),
        ("list_of_urls.txt", "URL"),
        ("text.txt", "not a text file"),
        ("void.txt", "no pictures"),
    ],
)
def test_bad_inputs_get_a_sentence(
    images: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list_of_urls.txt").write_text("https://example.com/a.jpg\n")
    (tmp_path / "text.txt").write_bytes(b"a\0b\n")
    (tmp_path / "void.txt").write_text("\n\n")
    with pytest.raises(InputError, match=message) as caught:
        records(images)
    assert "\n" not in str(caught.value)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", img2dataset_members(1))
    with pytest.raises(ConfigError, match="labels"):
        records(tmp_path / "a.tar", labels="folder")
    with pytest.raises(ConfigError, match="shard_size"):
        SourceOptions(shard_size=-1)
    (tmp_path / "names.txt").write_text("n01440764\n")
    with pytest.raises(InputError, match="line 1"):
        records("toy:3", classnames=str(tmp_path / "names.txt"))


def test_equal_names_in_different_folders_stay_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_tar(tmp_path / split / "00000.tar", img2dataset_members(2))
    found = records(f"{tmp_path}/train/00000.tar::{tmp_path}/val/00000.tar")
    assert len({record.key for record in found}) == 4
    assert found[0].source.startswith("train/00000.tar")


def test_shards_of_a_sensible_size_are_chosen(tmp_path: Path) -> None:
    for count, shards in ((1, 1), (25, 1), (200, 8), (6_400, 64), (1_000_000, 1000)):
        assert list_pictures(f"toy:{count}", SourceOptions()).shards == shards
    assert list_pictures("toy:100", SourceOptions(shard_size=30)).shards == 4


def test_key_is_a_function_of_the_source() -> None:
    assert key_of("a/b.jpg") == key_of("a/b.jpg") != key_of("a/c.jpg")
    assert io.StringIO(key_of("a/b.jpg")).read().startswith("a_b-")
