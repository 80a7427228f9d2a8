"""Checkpoints: whole or not there, the last few and the best, and how a run goes on from one.

step-000000250.pt    weights, optimiser, what the loss remembers, random states, configuration
best.pt              the one with the highest accuracy on the validation shards
encoder.safetensors  the encoder alone, as of the last checkpoint
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ezsr_shards.errors import InputError, RunError
from ezsr_shards.store import PART_SUFFIX, write_atomically
from ezsr_train.batches import Skipped
from ezsr_train.config import LogConfig, TrainConfig
from ezsr_train.step import Learner

FORMAT_VERSION = 2
BEST_FILE = "best.pt"
_NAME = re.compile(r"step-(\d{9})\.pt")
_OPERATIONAL = (
    *(f"log.{field.name}" for field in fields(LogConfig)),
    *("compile", "activation_checkpointing", "teacher"),
    *("data.workers", "data.cache", "data.max_skipped"),
)
"""Options that may change when a run goes on: they decide nothing about its steps."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands; the position in the data is samples = steps * batch."""

    step: int
    best_top1: float = -1.0
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Broken samples by shard and reason."""

    @property
    def skipped_samples(self) -> int:
        """Number of broken samples so far."""
        return sum(sum(reasons.values()) for reasons in self.skipped.values())

    def skip(self, found: Sequence[Skipped]) -> Progress:
        """Return the progress with more broken samples."""
        if not found:
            return self
        counts = {shard: dict(reasons) for shard, reasons in self.skipped.items()}
        for one in found:
            reasons = counts.setdefault(one.shard, {})
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        return replace(self, skipped=counts)


@dataclass(frozen=True)
class Origin:
    """What a run was made of, besides its configuration: hashes of teacher and shard sets."""

    teacher_sha256: str
    shards: str
    validation: str | None = None


def save_checkpoint(
    out: Path, learner: Learner, config: TrainConfig, origin: Origin, progress: Progress
) -> Path:
    """Write a checkpoint atomically, then drop the oldest; raise RunError where there is no room.

    Whatever goes wrong, the checkpoints before it stay.
    """
    state = {
        "format": FORMAT_VERSION,
        "progress": asdict(progress),
        "samples": progress.step * config.optim.batch,
        "student": learner.student.visual.state_dict(),
        "average": None if learner.average is None else learner.average.tower.state_dict(),
        "loss": learner.loss.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "random": random_states(),
        "config": json.dumps(asdict(config), sort_keys=True),
        "code_version": code_version(),
        "origin": asdict(origin),
    }
    path = step_path(out, progress.step)
    _write(path, state)
    for old in list_checkpoints(out)[: -config.log.keep]:
        if old != path:
            old.unlink()
    return path


def step_path(out: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return out / f"step-{step:09d}.pt"


def save_best(out: Path, path: Path) -> None:
    """Keep a checkpoint as the best one; a hard link where the file system has them."""
    part = out / f".{BEST_FILE}{PART_SUFFIX}"
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(path)
        part.replace(out / BEST_FILE)
    except OSError:
        shutil.copyfile(path, part)
        part.replace(out / BEST_FILE)


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except (OSError, RuntimeError) as error:  # torch.save may wrap a full disk
        found = list_checkpoints(path.parent)
        kept = f"{found[-1].name} is whole; " if found else ""
        raise RunError(
            f"checkpoint {path}: cannot be written ({error}); {kept}make room and say "
            f"--resume latest"
        ) from error


def list_checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run by step, without the best."""
    return sorted(path for path in out.glob("step-*.pt") if _NAME.fullmatch(path.name))


def find_checkpoint(out: Path, resume: str) -> Path | None:
    """Return what --resume means: `latest` of OUT (None where there is none yet), or a file."""
    if resume == "latest":
        found = list_checkpoints(out)
        return found[-1] if found else None
    if not Path(resume).is_file():
        raise InputError(f"resume {resume!r}: no such file; give a checkpoint, or latest")
    return Path(resume)


def restore_checkpoint(
    path: Path, learner: Learner, config: TrainConfig, origin: Origin
) -> Progress:
    """Bring a learner to where a checkpoint was; raise InputError where it does not belong."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["format"] != FORMAT_VERSION:
            raise InputError(f"resume {path}: written by another version of this program")
        progress, before = Progress(**state["progress"]), Origin(**state["origin"])
        found, said = json.loads(state["config"]), json.loads(json.dumps(asdict(config)))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"resume {path}: unreadable ({reason}); delete it to go on from the one before"
        ) from error
    except pickle.UnpicklingError as error:  # its own text is a page long
        raise InputError(
            f"resume {path}: no checkpoint of ezsr-train; delete it to go on from the one before"
        ) from error
    if before.teacher_sha256 != origin.teacher_sha256:
        raise InputError(f"resume {path}: trained with another teacher; give the same --model")
    if before.shards != origin.shards:
        raise InputError(f"resume {path}: trained on other shards; give the same SHARDS")
    if before.validation != origin.validation:
        progress = replace(progress, best_top1=-1.0)
    free = _free(found, progress.step) & _free(said, progress.step)
    changed = _first_difference(_deciding(found, free), _deciding(said, free))
    if changed:
        raise InputError(f"resume {path}: made with {changed}; give the same, or another --out")
    learner.student.visual.load_state_dict(state["student"])
    if learner.average is not None:
        learner.average.tower.load_state_dict(state["average"])
    learner.loss.load_state_dict(state["loss"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"]["cpu"])
    if torch.cuda.is_available() and "cuda" in state["random"]:
        torch.cuda.set_rng_state(state["random"]["cuda"])
    return progress


def random_states() -> dict[str, torch.Tensor]:
    """Return the states of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _free(config: dict[str, Any], step: int) -> frozenset[str]:
    """Return what may be told anew at a step.

    A constant schedule may be prolonged, or cooled down from any point of it: several runs of
    different length then share one trunk.
    """
    optim = config["optim"]
    constant = optim["schedule"] == "constant" and step <= optim["steps"] - optim["cooldown"]
    return frozenset(("optim.steps", "optim.cooldown") if constant else ())


def _deciding(config: dict[str, Any], free: frozenset[str]) -> dict[str, Any]:
    """Return, flat, what decides the steps to come."""
    flat = {
        f"{section}.{name}" if isinstance(value, dict) else section: one
        for section, value in config.items()
        for name, one in (value.items() if isinstance(value, dict) else [("", value)])
    }
    return {name: flat[name] for name in flat.keys() - {*_OPERATIONAL, *free}}


def _first_difference(found: dict[str, Any], said: dict[str, Any]) -> str:
    for name in sorted(found.keys() | said.keys()):
        if found.get(name) != said.get(name):
            return f"{name} {found.get(name)}, now it is {said.get(name)}"
    return ""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of this program, with the commit where it runs from a checkout of it."""
    try:
        number = version("ezsr")
    except PackageNotFoundError:
        number = "unknown"
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # else another project's checkout
        return f"{number}+{_git('describe', '--always', '--dirty')}"
    except (OSError, subprocess.SubprocessError):
        return number


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    return done.stdout.strip()
