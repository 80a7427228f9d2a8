"""Sources: everything the user may call IMAGES, its keys, labels, captions and order."""

from __future__ import annotations

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
from ezsr_synth.records import ImageRecord
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
        assert found[4].source == f"{tmp_path.name}/00001.tar/000000001.jpg"
        assert found[4].caption == "caption 1"
        assert found[4].url == "https://example.com/1.jpg"
        assert found[4].decode(10**7).size
    assert list_pictures(str(tmp_path), SourceOptions()).pictures is None


def test_tar_labels_names_and_folders(tmp_path: Path) -> None:
    members = {
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
    assert record.source == f"{tmp_path.name}/a.tar/train/c.jpg"
    with pytest.raises(PictureError, match=r"bad-label"):
        record.decode(10**7)


def test_samples_with_and_without_pictures(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.cls": b"7", "b.txt": b"no picture", "c.webp": b"", "c.cls": b"1"}
    write_tar(tmp_path / "a.tar", members)
    found = records(tmp_path / "a.tar")
    assert [(r.source, r.label) for r in found] == [
        (f"{tmp_path.name}/a.tar/a.jpg", 7),
        (f"{tmp_path.name}/a.tar/c.webp", 1),
    ]
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
    with pytest.raises(PictureError, match="tar-not-whole"):
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
    assert peak / count < 300


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


def test_keys_of_tars_do_not_depend_on_other_tars(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_tar(tmp_path / split / "00000.tar", img2dataset_members(2))
    first, second = tmp_path / "train" / "00000.tar", tmp_path / "val" / "00000.tar"
    both = records(f"{first}::{second}")
    assert len({record.key for record in both}) == 4
    assert both[0].source.startswith("train/00000.tar")
    assert [r.key for r in records(first)] + [r.key for r in records(second)] == [
        record.key for record in both
    ]
    (tmp_path / "x" / "train").mkdir(parents=True)
    write_tar(tmp_path / "x" / "train" / "00000.tar", img2dataset_members(1))
    with pytest.raises(InputError, match="same keys"):
        records(f"{first}::{tmp_path}/x/train/00000.tar")


def reasons(images: Path) -> list[tuple[str, str]]:
    """Source and reason of every record that gives no picture."""
    failed = []
    for record in records(images):
        try:
            record.decode(10**7)
        except PictureError as error:
            failed.append((record.source.rpartition(".tar")[2], error.reason))
    return failed


def test_what_a_tar_holds_twice_or_oddly_is_reported(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "a.jpg", "IMG.2020.jpg", "c.jpg", "c.jpg"):
            add_member(tar, name, jpeg())
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    assert sorted(reasons(tmp_path / "a.tar")) == [
        ("/IMG.2020.jpg", "dotted-name"),
        ("/a.jpg", "duplicate-key"),
        ("/c.jpg", "duplicate-key"),
        ("/link.jpg", "not-a-file"),
    ]
    keys = [record.key for record in records(tmp_path / "a.tar")]
    made = [r.key for r in records(tmp_path / "a.tar") if r.source.rpartition("/")[2] == "b.jpg"]
    assert keys.count(made[0]) == 1


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"p{n}.jpg": jpeg(n) for n in range(5)})
    data = bytearray(path.read_bytes())
    data[data.index(b"p3.jpg")] ^= 1
    path.write_bytes(data)
    assert reasons(path) == [("", "tar-not-whole")]
    assert len(records(path)) == 3, "p2 may have lost members, so it is not trusted"


def test_tars_glued_together_are_reported(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "a.tar", {"a.jpg": jpeg()}).read_bytes()
    two = write_tar(tmp_path / "b.tar", {"b.jpg": jpeg()}).read_bytes()
    (tmp_path / "c.tar").write_bytes(one + two)
    assert reasons(tmp_path / "c.tar") == [("", "tar-not-whole")]


def test_absurd_sizes_and_labels_end_quickly(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.bin": b"", "b.jpg": jpeg()})
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80\0\0\0" + b"\x7f" * 8
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert reasons(path) == [("", "tar-not-whole")]
    many = {"a.jpg": jpeg(), "a.cls": b"300000000", "b.jpg": jpeg(), "b.cls": b"9" * 5000}
    write_tar(tmp_path / "b.tar", many)
    assert [reason for _, reason in reasons(tmp_path / "b.tar")] == ["bad-label", "bad-label"]


def test_captions_that_are_no_unicode(tmp_path: Path) -> None:
    facts = b'{"caption": "cat \\ud83d", "url": "x\\ud800"}'
    deep = b"[" * 100_000
    members = {"a.jpg": jpeg(), "a.json": facts, "b.jpg": jpeg(), "b.json": deep}
    write_tar(tmp_path / "a.tar", {**members, "c.jpg": jpeg(), "c.txt": b"\xff\xfe"})
    captions = [record.caption for record in records(tmp_path / "a.tar")]
    assert captions[:2] == ["cat ?", None]
    for caption in captions:
        (caption or "").encode()


def test_a_pipe_beside_a_picture_does_not_block(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", smooth_picture(0))
    os.mkfifo(tmp_path / "a.txt")
    assert [record.caption for record in records(tmp_path)] == [None]


def test_folders_full_of_links_are_read_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"f{n}" for n in range(9)]
    for folder in folders:
        write_picture(folder / "a.png", smooth_picture(0, 20, 20))
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    found = records(tmp_path, labels="none")
    assert sorted(r.source for r in found) == [*(f"f{n}/a.png" for n in range(9)), "self.jpg"]


@pytest.mark.parametrize("name", ["photos.target", "n01.tar", "my.tar.d"])
def test_tar_in_a_name_does_not_make_a_tar(name: str, tmp_path: Path) -> None:
    write_picture(tmp_path / name / "x.jpg", smooth_picture(0))
    assert len(records(tmp_path / name)) == len(records(tmp_path / name / "x.jpg")) == 1


@pytest.mark.parametrize("spec", ["{a.tar", "a}.tar", "a{1..3.tar", "x{0..99999999}.tar"])
def test_braces_that_make_no_sense(spec: str) -> None:
    with pytest.raises(InputError, match="brace"):
        records(spec)


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", smooth_picture(0))
    (tmp_path / "list.txt").write_bytes("\ufeffa.jpg\n".encode())
    assert records(tmp_path / "list.txt")[0].source == "a.jpg"


def test_a_few_stray_pictures_cost_the_labels_loudly(
    picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(picture_folder / "cover.png", smooth_picture(0))
    assert list_pictures(str(picture_folder), SourceOptions()).classes == ()
    assert "cover.png" in capsys.readouterr().err


def test_shards_of_a_sensible_size_are_chosen(tmp_path: Path) -> None:
    for count, shards in ((1, 1), (25, 1), (200, 8), (6_400, 64), (1_000_000, 1000)):
        assert list_pictures(f"toy:{count}", SourceOptions()).shards == shards
    assert list_pictures("toy:100", SourceOptions(shard_size=30)).shards == 4
