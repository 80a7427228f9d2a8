"""Grids of independent trainings, each done once, in any order, by any number of machines.

A finished training is a line of OUT/runs*.jsonl, so a run that was killed goes on where it was,
lines that were cut are ignored, and the folders of several machines together hold the whole grid.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing as mp
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from scoring import score_encoder

from ezsr_shards.errors import ConfigError, EzsrError, RunError, check_number
from ezsr_shards.process import available_cpus, follow_parent
from ezsr_shards.shardset import CONFIG_FILE, RUNS_FILE, read_json
from ezsr_train.checkpoint import list_checkpoints
from ezsr_train.config import (
    AugmentConfig,
    DataConfig,
    InputConfig,
    LogConfig,
    OptimConfig,
    TrainConfig,
)
from ezsr_train.loop import ENCODER_FILE, train

Row = dict[str, Any]
ROWS = "runs"
_STARTED = time.monotonic()


def toy_training(steps: int, lr: float, warmup: int) -> TrainConfig:
    """Return how a cell is trained on the toy world unless told otherwise."""
    return TrainConfig(
        input=InputConfig(slice_events=8000),
        augment=AugmentConfig(slice_jitter=1000),
        optim=OptimConfig(steps=steps, batch=64, lr=lr, warmup=warmup),
        data=DataConfig(workers=0),
        log=LogConfig(every=10**6, eval_every=10**6, save_every=10**6, keep=1, tensorboard=False),
    )


@dataclass(frozen=True)
class Training:
    """One training on one shard set, and the held-out set it is scored on.

    facts  what its row says besides: where in the grid it stands
    """

    name: str
    shards: Path
    val: Path
    train: TrainConfig
    facts: Mapping[str, Any] = field(default_factory=dict)

    def deciding(self) -> dict[str, Any]:
        """Return all that decides its row, but the machine: sets by what they were made of."""
        told = asdict(self.train)
        del told["log"], told["data"]["workers"], told["data"]["cache"]
        sets = {name: hash_set(getattr(self, name)) for name in ("shards", "val")}
        return {"train": told, **sets, "facts": dict(self.facts)}

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides its row."""
        text = json.dumps(self.deciding(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Spread:
    """How cells are spread over machines and processes; nothing here changes a row."""

    jobs: int = 1
    """Cells at once on this machine, each with its share of the threads; they may share a GPU."""
    job_id: int = 0
    """This machine's number, from 0 on, of --num-jobs."""
    num_jobs: int = 1
    """Machines that share the cells, each with a folder of its own or all with one."""
    seconds_limit: float = float("inf")
    """Start no cell after this many seconds from the program's start."""

    def __post_init__(self) -> None:
        """Refuse what leaves cells undone."""
        check_number("jobs", self.jobs, 1, 1024)
        check_number("num_jobs", self.num_jobs, 1, 10**6)
        if not 0 <= self.job_id < self.num_jobs:
            raise ConfigError(
                f"job_id {self.job_id}: give 0 to {self.num_jobs - 1} of --num-jobs {self.num_jobs}"
            )

    @property
    def rows_file(self) -> str:
        """Name of the file that this machine alone writes."""
        part = f"-{self.job_id}-of-{self.num_jobs}" if self.num_jobs > 1 else ""
        return f"{ROWS}{part}.jsonl"


Measure = Callable[[Training, Path], Row]
"""Trains a cell in a folder and returns what its row says."""


def hash_set(folder: Path) -> str:
    """Return the hash of what a shard set was made of, the same on every machine."""
    return str(read_json(folder, CONFIG_FILE)["config_hash"])


def read_rows(folders: Sequence[Path]) -> dict[str, Row]:
    """Return the rows of all folders by cell; raise ConfigError where two of a cell disagree."""
    rows: dict[str, Row] = {}
    for path in (path for folder in folders for path in sorted(folder.glob(f"{ROWS}*.jsonl"))):
        for row in _read_lines(path):
            other = rows.setdefault(row["cell"], row)
            if other["fingerprint"] != row["fingerprint"]:
                raise ConfigError(
                    f"{path}: its cell {row['cell']!r} was trained with other options; give "
                    f"another folder"
                )
    return rows


def _read_lines(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut by a kill or by an end of space
            continue
        if isinstance(row, dict) and {"cell", "fingerprint"} <= row.keys():
            yield row


def append_row(path: Path, row: Row) -> None:
    """Add a line to a file, after a last line that was cut if there is one."""
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def gather_rows(out: Path, others: Sequence[Path]) -> dict[str, Row]:
    """Return all rows by cell, after adding to OUT those of other folders that it lacks."""
    out.mkdir(parents=True, exist_ok=True)
    own = read_rows([out])
    rows = read_rows([out, *others])
    for name in rows.keys() - own.keys():
        append_row(out / f"{ROWS}.jsonl", rows[name])
    return dict(sorted(rows.items()))


def run_cells(
    cells: Sequence[Training],
    measure: Measure,
    out: Path,
    work: Path,
    spread: Spread,
) -> dict[str, Row]:
    """Run this machine's cells that are not done, in this order; return the rows of all `cells`.

    `work` is the folder for the trainings, which are deleted when they are done. Raises RunError
    at the end where cells have failed; the others are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    prints = {cell.name: cell.fingerprint for cell in cells}
    done = _check(read_rows([out]), prints)
    todo = [cell for cell in cells[spread.job_id :: spread.num_jobs] if cell.name not in done]
    print(f"{len(done)} of {len(cells)} cells done, {len(todo)} to do here", flush=True)
    failed = 0
    for cell, row in _run(todo, measure, work, spread):
        if isinstance(row, str):
            failed += 1
            print(f"{cell.name}: failed\n{row}", file=sys.stderr, flush=True)
            continue
        row = {"cell": cell.name, "fingerprint": prints[cell.name], **row}
        row |= {"machine": machine, "config": cell.deciding()["train"]}
        append_row(out / spread.rows_file, row)
        done[cell.name] = row
        since = time.monotonic() - _STARTED
        print(f"{len(done)}/{len(cells)}  {cell.name}: {summarize(row)}  {since:.0f} s", flush=True)
    if failed:
        raise RunError(f"{failed} cells failed, see above; the same again tries them once more")
    return {cell.name: done[cell.name] for cell in cells if cell.name in done}


def _check(rows: dict[str, Row], prints: Mapping[str, str]) -> dict[str, Row]:
    """Return the rows of the cells; raise ConfigError where one was made with other options."""
    for name, row in rows.items():
        if name in prints and row["fingerprint"] != prints[name]:
            raise ConfigError(
                f"OUT: its cell {name!r} was trained with other options; give another folder"
            )
    return {name: row for name, row in rows.items() if name in prints}


def summarize(row: Row) -> str:
    """Return a row's figures for people."""
    return f"error {row['error']:.3f} of {row['evaluated']}, {row['seconds']:.0f} s"


def _run(
    todo: Sequence[Training], measure: Measure, work: Path, spread: Spread
) -> Iterator[tuple[Training, Row | str]]:
    """Yield each cell as it ends, with its row or the text of what went wrong."""
    if spread.jobs == 1:
        for cell in todo:
            if time.monotonic() - _STARTED > spread.seconds_limit:
                return
            yield cell, _attempt(measure, cell, work)
        return
    threads = max(available_cpus() // spread.jobs, 1)
    waiting = iter(todo)
    running: dict[Future[Row | str], Training] = {}
    context = mp.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(spread.jobs, context, _begin, (threads,)) as pool:
        while True:
            while len(running) < spread.jobs:
                late = time.monotonic() - _STARTED > spread.seconds_limit
                cell = None if late else next(waiting, None)
                if cell is None:
                    break
                running[pool.submit(_attempt, measure, cell, work)] = cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _result_of(future)


def _begin(threads: int) -> None:
    follow_parent()
    torch.set_num_threads(threads)


def _attempt(measure: Measure, cell: Training, work: Path) -> Row | str:
    began = time.perf_counter()
    folder = work / "trainings" / cell.fingerprint
    try:
        row = measure(cell, folder)
    except EzsrError as error:
        return str(error)
    except Exception:  # one cell's failure must not end the others
        return traceback.format_exc()
    shutil.rmtree(folder, ignore_errors=True)
    return {**row, "seconds": time.perf_counter() - began}


def _result_of(future: Future[Row | str]) -> Row | str:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunError("a process of the grid was killed; the same again goes on") from error


def train_and_score(cell: Training, folder: Path, knn: int = 0) -> Row:
    """Train a cell, from its last checkpoint if it has one, and return what any row says.

    `knn` pictures of the training set that are nearest translate the embeddings as well, if any.
    """
    resume = "latest" if list_checkpoints(folder) else None
    summary = train(cell.shards, folder, cell.train, None, resume)
    pool = cell.shards if knn else None
    scores = score_encoder(folder / ENCODER_FILE, cell.val, cell.train, pool, knn)
    return {
        **cell.facts,
        "seed": cell.train.seed,
        "samples_seen": int(summary["samples"]),
        **scores,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def synthesis_seconds(folder: Path) -> float | None:
    """Return the core-seconds that a sample of a set took to make, where its log tells."""
    if not (folder / RUNS_FILE).is_file():
        return None
    runs = [json.loads(line) for line in (folder / RUNS_FILE).read_text().splitlines()]
    if not all(run["workers"] for run in runs):  # of a cluster, which may have grown under way
        return None
    spent = sum(run["seconds"] * run["workers"] for run in runs if run["made"])
    return float(spent / runs[-1]["samples"])
