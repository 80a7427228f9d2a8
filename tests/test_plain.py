"""The kernels as plain Python: what Numba compiles is what is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_kernels import random_case

from ezsr_synth import kernels, lanes
from ezsr_synth.simulate import simulate

CASES = 3


def hash_cases() -> str:
    """Hash the events of a few cases with every effect on."""
    found, events = hashlib.sha256(), 0
    for seed in range(CASES):
        log_picture, motion, camera, size = random_case(seed)
        camera = replace(
            camera,
            threshold_mismatch=0.2,
            random_phase=True,
            refractory_us=500.0,
            bandwidth_hz=200.0 * (seed % 2),
            leak_hz=5.0,
            shot_noise_hz=50.0,
            hot_pixels=0.1,
            hot_pixel_hz=(100.0, 500.0),
            row_readout_us=2.0,
            seed=2**63 + seed,
        )
        stream = simulate(log_picture, motion, camera, size)
        events += len(stream)
        for column in (stream.x, stream.y, stream.t, stream.p):
            found.update(np.ascontiguousarray(column).tobytes())
    assert events > 1000
    return found.hexdigest()


COMPILED = [
    pytest.param({"NUMBA_CPU_NAME": "generic"}, id="any CPU"),
    pytest.param(
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+popcnt"},
        id="eight at a time",
        marks=pytest.mark.skipif(not lanes.PACKS, reason="this CPU has no AVX2"),
    ),
]
PLAIN = [
    pytest.param({"NUMBA_DISABLE_JIT": "1", "NUMBA_CPU_FEATURES": features}, id=name)
    for name, features in {
        "plain Python": "",
        "plain Python, eight at a time": "+avx2",
        "plain Python, sixteen at a time": "+avx512f",
    }.items()
]


@pytest.mark.parametrize("told", PLAIN + COMPILED)
def test_the_events_are_the_same_to_the_byte(told: dict[str, str], tmp_path: Path) -> None:
    """From the interpreter, and from CPUs that have none of the instructions of this one."""
    code = "import test_plain as own; print(own.kernels.__file__, own.hash_cases(), sep=chr(10))"
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    told = {**told, "PYTHONPATH": os.pathsep.join(paths), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [kernels.__file__, hash_cases()]


@pytest.mark.skipif(sys.platform == "win32", reason="pages are guarded by mprotect")
@pytest.mark.parametrize("told", [pytest.param({}, id="this CPU"), *COMPILED])
def test_kernels_touch_nothing_outside_their_arrays(told: dict[str, str], tmp_path: Path) -> None:
    """Run among pages that end the process when they are touched."""
    code = "import guard_pages; print(guard_pages.run_guarded(60))"
    told = {**told, "PYTHONPATH": os.pathsep.join(sys.path)}
    if "NUMBA_CPU_NAME" in told:
        told["NUMBA_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | told,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000
