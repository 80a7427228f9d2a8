"""Other event simulators on the frames of the yardstick, where they are installed or at hand.

Each reads its own package from the Python path; a checkout of its repository put there will do.
What a checkout needs for windows, files and cameras alone, but not to simulate, may be missing.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import cv2
import numpy as np

_V2E_UNUSED = ("screeninfo", "easygui", "tkinter", "tkinter.filedialog", "h5py", "plyer")
_V2E_OUTPUTS = (
    "output.ae_text_output",
    "output.aedat2_output",
    "output.aedat4_output",
    "v2e_utils",
)


@dataclass(frozen=True)
class Peer:
    """A simulator: the package that it is in, and how it makes events.

    prepare  log frames float32 (T, H, W), a folder for files -> what it takes; not timed
    events   (that, t_us int64 (T,), contrast threshold) -> how many events it makes
    missing  what to say where the package is not there
    """

    package: str
    prepare: Callable[[np.ndarray, Path], Any]
    events: Callable[[Any, np.ndarray, float], int]
    missing: str

    def available(self) -> bool:
        """Tell whether the package can be imported."""
        return find_spec(self.package) is not None


def to_light(frames: np.ndarray, folder: Path) -> np.ndarray:
    """Return light from 0 to 255."""
    return 255 * np.exp(frames)


def to_log(frames: np.ndarray, folder: Path) -> np.ndarray:
    """Return the log frames as they are."""
    return frames


def to_files(frames: np.ndarray, folder: Path) -> list[str]:
    """Return the names of 8-bit pictures of the light."""
    names = [str(folder / f"{n:04}.png") for n in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        cv2.imwrite(name, np.clip(255 * np.exp(frame) + 0.5, 0, 255).astype(np.uint8))
    return names


def load_v2e() -> Any:
    """Return v2e's `EventEmulator`, with stand-ins for its windows and files."""
    for name in _V2E_UNUSED:
        sys.modules.setdefault(name, MagicMock())
    for name in _V2E_OUTPUTS:
        sys.modules.setdefault(f"v2ecore.{name}", MagicMock())
    sys.modules.setdefault("engineering_notation", types.ModuleType("engineering_notation"))
    from v2ecore.emulator import EventEmulator

    return EventEmulator


def count_v2e(light: np.ndarray, t_us: np.ndarray, threshold: float) -> int:
    """Run v2e without noise, on one thread; it takes a logarithm of its own."""
    emulator = load_v2e()(pos_thres=threshold, neg_thres=threshold, sigma_thres=0.0, device="cpu")
    sys.modules["torch"].set_num_threads(1)
    emulator.set_dvs_params("clean")
    made = [emulator.generate_events(frame, t * 1e-6) for frame, t in zip(light, t_us, strict=True)]
    return sum(len(part) for part in made if part is not None)


def count_esim(names: list[str], t_us: np.ndarray, threshold: float) -> int:
    """Run ESIM's core as its Python package offers it, on pictures that it reads from files."""
    from esim_py import EventSimulator

    simulator = EventSimulator(threshold, threshold, 0.0, 1e-3, True)
    times_s = [t * 1e-6 for t in t_us.tolist()]
    return len(simulator.generateFromStampedImageSequence(names, times_s))


def count_openeb(frames: np.ndarray, t_us: np.ndarray, threshold: float) -> int:
    """Run OpenEB's simulator without noise on log frames, a new one for each picture."""
    known = "metavision_sdk_base" in sys.modules
    if not known and find_spec("metavision_sdk_base") is None:  # only for its dtype
        kinds = [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")]
        base = types.ModuleType("metavision_sdk_base")
        base.EventCD = np.dtype(kinds)  # type: ignore[attr-defined]
        sys.modules["metavision_sdk_base"] = base
    whole = cast(Any, find_spec("metavision_core_ml"))
    part = types.ModuleType("metavision_core_ml.video_to_event")  # less its readers of videos
    part.__path__ = [f"{where}/video_to_event" for where in whole.submodule_search_locations or ()]
    sys.modules.setdefault(part.__name__, part)
    from metavision_core_ml.video_to_event.simulator import EventSimulator

    simulator = EventSimulator(*frames.shape[1:], threshold, threshold, 0)
    for frame, t in zip(frames, t_us, strict=True):
        simulator.log_image_callback(frame, int(t))
    return len(simulator.get_events())


PEERS = {
    "v2e": Peer("v2ecore", to_light, count_v2e, "put a checkout of SensorsINI/v2e on PYTHONPATH"),
    "openeb": Peer(
        "metavision_core_ml",
        to_log,
        count_openeb,
        "put sdk/modules/core_ml/python/pypkg of a checkout of prophesee-ai/openeb on PYTHONPATH",
    ),
    "esim": Peer("esim_py", to_files, count_esim, "build esim_py of uzh-rpg/rpg_vid2e"),
}
