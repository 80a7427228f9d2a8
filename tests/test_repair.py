"""Repair: what is broken goes, all else stays, and a rerun gives the same bytes again."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import set_bytes
from test_claims import CONFIG, QUICK, SOURCE, far_beat, traces
from test_run import break_set

from ezsr_shards.beats import Lookout
from ezsr_shards.claims import Claims
from ezsr_shards.cli import main
from ezsr_shards.errors import OutputError, ShardError
from ezsr_shards.repair import repair
from ezsr_shards.status import Status, look_at
from ezsr_shards.store import LocalStore
from ezsr_shards.verify import verify
from ezsr_synth.run import synthesize


@pytest.mark.parametrize(
    ("how", "gone"),
    [
        ("flipped byte", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("cut", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("no tar", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("no record", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("wrong count", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("wrong labels", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("labels of another kind", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("same key twice", {"events-000001.tar", "events-000001.json", "index.json"}),
        ("other class list", {"classes.json"}),
        ("wrong index", {"index.json"}),
        ("garbled index", {"index.json"}),
    ],
)
def test_what_is_broken_goes_and_is_made_again(
    how: str, gone: set[str], picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    whole = set_bytes(out)
    for name in ("notes.txt", "events-mine.tar", "other-000000.tar", ".hidden"):
        (out / name).write_text("keep me")
    break_set(out, how)
    assert repair(out)
    left = set(set_bytes(out)) - {"events-mine.tar", "other-000000.tar"}
    assert left == whole.keys() - gone
    assert {name: set_bytes(out)[name] for name in left} == {name: whole[name] for name in left}
    made = synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK).made
    assert made == len({name for name in gone if name.endswith(".tar")})
    assert whole.items() <= set_bytes(out).items()
    assert repair(out) == []
    verify(out)
    for name in ("notes.txt", "events-mine.tar", "other-000000.tar", ".hidden"):
        assert (out / name).read_text() == "keep me"
    assert traces(out) == [".hidden"]


def test_what_cannot_be_repaired_is_left_alone(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    break_set(out, "stray tar")  # which no run of this set makes
    whole = set_bytes(out)
    assert repair(out) == []
    with Claims(LocalStore(out), "events", 60.0), pytest.raises(OutputError, match="another run"):
        repair(out)
    break_set(out, "edited configuration")
    with pytest.raises(ShardError, match=r"config\.json: was changed"):
        repair(out)
    assert {**set_bytes(out), "config.json": ""} == {**whole, "config.json": ""}
    with pytest.raises(OutputError, match=r"no config\.json"):
        repair(tmp_path)


def test_what_cannot_be_read_now_is_not_taken_for_broken(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    whole = set_bytes(out)

    def fail(self: LocalStore, name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for method in ("open", "read"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, method, fail)
            with pytest.raises(ShardError, match="Input/output error"):
                repair(out)
        assert set_bytes(out) == whole


def test_the_command_says_what_it_did(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    assert main(["verify", str(out), "--repair"]) == 0
    assert "keep the contract" in capsys.readouterr().out
    (out / "events-000002.tar").write_bytes(b"")
    assert main(["verify", str(out), "--repair"]) == 1
    said = capsys.readouterr()
    assert "removed events-000002, tar and record: events-000002.tar: 0 bytes" in said.out
    assert "removed index.json" in said.out
    assert "makes exactly what is missing" in said.err
    assert main(["verify", str(out), "--repair"]) == 1
    assert "3 of 4 shards are complete" in capsys.readouterr().err


def test_status_of_runs_on_several_machines(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One machine is at shard 1, one has died at shard 2, shard 3 waits."""
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    assert main(["status", str(out)]) == 0
    assert "nothing: every shard is complete" in capsys.readouterr().out
    for n in (1, 2, 3):
        (out / f"events-00000{n}.json").unlink()
    beat = far_beat("a" * 16)
    work = {
        "making": {
            "1": {
                "since_s": beat.said_s - 20,
                "inputs": 2,
                "samples": 1,
                "events": 9,
                "failures": 1,
            }
        },
        "made": {"shards": 7},
        "recent": {"seconds": 100.0, "shards": 1, "inputs": 10, "samples": 9},
    }
    facts = replace(beat, work=work, count=12, started_s=beat.said_s - 300).__dict__
    (out / f".{'a' * 16}.beat").write_text(json.dumps(facts))
    for n, token in ((1, "a"), (2, "b")):
        (out / f".events-00000{n}.0.claim").write_text(token * 16)
    assert main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1 of 4 complete, 1 in flight, 1 to do" in text
    assert "process 4711 on far: beat 12 after 300 s, 7 shards made, 1 in flight" in text
    assert re.search(r"events-000001 +2 pictures, 1 failed, for 20 s by process 4711 on far", text)
    assert re.search(r"events-000002 +of a run that died", text)
    assert "324 samples/h, 36 shards/h" in text
    assert main(["status", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["in_flight"][0]["shard"] == "events-000001"
    assert said["in_flight"][0]["seconds"] == pytest.approx(20)
    assert said["abandoned"] == ["events-000002"]
    assert said["eta_s"] == pytest.approx((12 - 3 - 2) / 0.1)
    assert (said["complete"], said["shards"], said["inputs_done"]) == (1, 4, 3)
    assert [run["alive"] for run in said["runs"]] == [None]


def test_status_of_a_run_here(picture_folder: Path, tmp_path: Path) -> None:
    """What a run says of itself; its beat may lag behind its work, so it is held until it tells."""
    store, seen = LocalStore(tmp_path / "out"), list[Status]()

    def hold(*_: object) -> None:
        while not seen or not seen[-1].runs[0].in_flight:
            time.sleep(0.05)
            seen.append(look_at(store, Lookout(store)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ezsr_shards.making._Judge.__call__", hold)
        synthesize(str(picture_folder), store, CONFIG, SOURCE, QUICK)
    status, (run,) = seen[-1], seen[-1].runs
    assert (status.shards, status.inputs, status.noun) == (4, 12, "pictures")
    assert (run.alive, run.in_flight, run.shards_made) == (True, 1, 0)
    assert run.who.startswith(f"process {os.getpid()} on ")
    assert {one.shard for one in status.in_flight} <= {"events-000000"}
    assert look_at(store, Lookout(store)).runs == ()


def test_status_of_what_is_damaged_is_a_sentence(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, CONFIG, SOURCE, QUICK)
    (out / "events-000001.tar").unlink()
    beat = far_beat("a" * 16).__dict__ | {"work": {"recent": {"shards": "x"}, "making": 3}}
    (out / f".{'a' * 16}.beat").write_text(json.dumps(beat))
    (out / f".{'b' * 16}.beat").write_text(json.dumps(beat | {"said_s": None}))
    assert main(["status", str(out)]) == 0
    assert "3 of 4 complete" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    for damage in ({"name": None}, {"shards": "four"}):
        (out / "config.json").write_text(json.dumps(config | damage))
        assert main(["status", str(out)]) == 1
        assert "its config.json is damaged" in capsys.readouterr().err
