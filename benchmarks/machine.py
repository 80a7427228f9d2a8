"""What every committed result carries: machine, commit, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ezsr_synth.work import library_versions

ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> dict[str, Any]:
    """Return processor, CPUs, system, commit and library versions."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "commit": _commit(),
        "versions": {**library_versions(), **_training_versions()},
    }


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError):  # a machine without git
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def _training_versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "open_clip_torch", "webdataset"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def real_pictures() -> Path:
    """Return the folder of real photographs, where it is at hand."""
    data = Path(os.environ.get("EZSR_DATA", ROOT.parent / "shared" / "data"))
    return data / "imagenet-sample"


@contextmanager
def one_core() -> Iterator[None]:
    """Keep to one core, where the system lets a process choose: one that moves loses its caches."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_result(path: Path, facts: dict[str, Any]) -> None:
    """Write a result as JSON, with the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "machine": describe_machine()}, indent=1, sort_keys=True)
    path.write_text(text + "\n")
