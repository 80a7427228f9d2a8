"""How fast samples reach the trainer: one core, 50k-event samples, cached teacher embeddings.

    python benchmarks/loader_speed.py [--json FILE]

Toy shards are made in a temporary folder. Beside our loader, in the same minute, webdataset's own
decoding of the same samples (all columns, no picture), cut to the same slice. Both from the page
cache, single process, in turns; the figures are medians.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from machine import ROOT, write_result

from ezsr_synth.config import SynthConfig
from ezsr_synth.run import synthesize
from ezsr_train.batches import ReadOptions, training_batches
from ezsr_train.config import DataConfig, OptimConfig, TrainConfig
from ezsr_train.ranks import Ranks
from ezsr_train.shard_files import open_shard_set
from ezsr_train.teacher import load_teacher
from ezsr_train.teacher_cache import embed_shards, open_cache

PICTURES, BATCH, BATCHES, ROUNDS = 512, 64, 16, 7


def plain_samples(folder: Path) -> Iterator[int]:
    """Yield the number of events in the slice of each sample, by webdataset and numpy alone."""
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    rng = np.random.default_rng(0)
    while True:
        for (data,) in wds.WebDataset(tars, shardshuffle=False).to_tuple("events.npz"):
            with np.load(io.BytesIO(data)) as events:
                columns = [events[name] for name in "xytp"]
            start = int(rng.integers(0, max(len(columns[0]) - 15_000, 0) + 1))
            yield len(np.stack([column[start : start + 15_000] for column in columns]))


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/loader_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(optim=OptimConfig(batch=BATCH), data=DataConfig(workers=0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        made = synthesize(f"toy:{PICTURES}", folder, SynthConfig())
        alone = Ranks(0, 1, torch.device("cpu"))
        teacher = load_teacher("toy", None, alone.device)
        shards = open_shard_set(folder)
        embed_shards(shards, teacher, config.input.geometry)
        cache = open_cache(shards, teacher, config.input.geometry)
        read = ReadOptions(config.input, 224, 64, cache)
        rates: dict[str, list[float]] = {"ours": [], "plain": []}
        ours = training_batches(shards, read, config, alone, 0)
        plain = plain_samples(folder)
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            taken = sum(len(batch.keys) for batch in islice(ours, BATCHES))
            middle = time.perf_counter()
            count = sum(1 for _ in islice(plain, taken))
            rates["plain"].append(count / (time.perf_counter() - middle))
            rates["ours"].append(taken / (middle - began))
    median = {name: statistics.median(found[1:]) for name, found in rates.items()}
    events = made.events / made.samples
    ratio = median["ours"] / median["plain"]
    print(f"{events:.0f} events a sample, slices of {config.input.slice_events} for 224x224")
    print(f"  ours   {median['ours']:7.0f} samples/s on one core")
    print(f"  plain  {median['plain']:7.0f} samples/s (webdataset, numpy.load)")
    print(f"  ratio  {ratio:.1f}")
    facts = {
        "samples_per_s_per_core": round(median["ours"]),
        "plain_samples_per_s_per_core": round(median["plain"]),
        "ratio": round(ratio, 2),
        "events_per_sample": round(events),
    }
    write_result(options.json, facts)
    print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
