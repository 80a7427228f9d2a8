"""Shards without us: webdataset and numpy alone read everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ezsr_shards.making import RunOptions
from ezsr_shards.verify import iterate_samples
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions

READER = """
import io, json, sys
for ours in ("ezsr_shards", "ezsr_synth", "ezsr_train"):
    sys.modules[ours] = None  # importing it now raises
import numpy as np
import webdataset as wds
folder = sys.argv[1]
index = json.load(open(folder + "/index.json"))
assert index["__kind__"] == "wids-shard-index-v1"
urls = [folder + "/" + shard["url"] for shard in index["shardlist"]]
said = {}
for sample in wds.WebDataset(urls, shardshuffle=False).decode():
    events, facts = sample["events.npz"], sample["json"]
    assert list(events) == ["x", "y", "t", "p"]
    assert len(events["t"]) == facts["events"] and events["p"].sum() == facts["on_events"]
    assert np.all(np.diff(events["t"].astype(np.int64)) >= 0)
    assert sample["jpg"][:2] == b"\\xff\\xd8"
    said[sample["__key__"]] = [int(events["t"].sum()), sample["cls"], sample.get("txt")]
print(json.dumps(said))
"""


def test_webdataset_and_numpy_read_it_all(picture_folder: Path, tmp_path: Path) -> None:
    (picture_folder / "class_a" / "image 00.txt").write_text("a caption")
    config = SynthConfig(size=SensorSize(48, 32), views=2)
    out = tmp_path / "out"
    synthesize(str(picture_folder), out, config, SourceOptions(shard_size=5), RunOptions(workers=2))
    command = [sys.executable, "-W", "ignore", "-c", READER, str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = {
        sample.key: [int(sample.events.t.sum()), sample.label, sample.caption]
        for sample in iterate_samples(out)
    }
    assert json.loads(done.stdout) == ours
    assert len(ours) == 24
