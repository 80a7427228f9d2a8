"""Monitor: what a run says of itself, on the terminal and in its folder.

metrics.jsonl        a JSON object a line
tensorboard/         the same for TensorBoard
input.png            event images of the first batch, as the tower gets them
curve.png            loss and accuracy over the samples seen
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ezsr_shards.errors import ConfigError, OutputError, RunError
from ezsr_train.config import TrainConfig
from ezsr_train.tower import TowerSpec

METRICS_FILE, INPUT_FILE, CURVE_FILE = "metrics.jsonl", "input.png", "curve.png"
_PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}
"""Dense bf16 peaks of data sheets, in 10^12 operations a second."""
_BACKWARD = 3  # a step takes the forward pass's operations this many times


class Monitor:
    """Collects what happens between two lines of metrics, and writes it everywhere."""

    def __init__(self, out: Path, config: TrainConfig, forward_flops: float, parts: int) -> None:
        """Open the logs; `parts` is how many forward passes a sample takes in a step."""
        self._path, self._config = out / METRICS_FILE, config
        self._flops = forward_flops * (_BACKWARD + (parts > 1))
        self._board = _open_tensorboard(out) if config.log.tensorboard else None
        self._wandb = _open_wandb(config)
        self._began = time.perf_counter()
        self._restart()
        if self._path.is_file() and not self._path.read_bytes().endswith(b"\n"):
            self._write("\n")  # a line that an end of power or space has cut

    def _restart(self) -> None:
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._steps, self._waited, self._took = 0, 0.0, 1e-9

    def add(self, losses: Mapping[str, float], waited_s: float, took_s: float) -> None:
        """Take note of a step: its losses, how long it waited for its batch, and took in all."""
        numbers = {name: value for name, value in losses.items() if math.isfinite(value)}
        self._sums.update(numbers)
        self._counts.update(numbers.keys())
        self._steps += 1
        self._waited += waited_s
        self._took += took_s

    def report(self, step: int, skipped: int, rate: float) -> str:
        """Log the means since the last report; return them as a line for people.

        Speed is that of the steps: evaluations and checkpoints between them do not count.
        """
        samples_per_s = self._steps * self._config.optim.batch / self._took
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        speed = {"samples_per_s": samples_per_s, "waiting": self._waited / self._took}
        usage = self._usage(samples_per_s)
        samples = step * self._config.optim.batch
        facts = {"step": step, "samples": samples, **means, **speed, "lr": rate, **usage}
        self.log({**facts, "skipped": skipped, "seconds": time.perf_counter() - self._began})
        line = (
            f"step {step}/{self._config.optim.steps}  loss {means['loss']:.4f}  "
            f"{samples_per_s:.0f} samples/s  waiting {speed['waiting']:.0%}"
        )
        line += f"  MFU {usage['mfu']:.0%}" if "mfu" in usage else ""
        line += f"  skipped {skipped}" if skipped else ""
        self._restart()
        return line

    def _usage(self, samples_per_s: float) -> dict[str, float]:
        if not torch.cuda.is_available():
            return {}
        memory, peak = {"memory_gb": torch.cuda.max_memory_allocated() / 1e9}, peak_flops()
        if peak is None:
            return memory
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return {"mfu": self._flops * samples_per_s / (peak * ranks), **memory}

    def log(self, facts: Mapping[str, Any]) -> None:
        """Write one set of facts to every log."""
        self._write(json.dumps(facts, sort_keys=True) + "\n")
        numbers = {k: v for k, v in facts.items() if isinstance(v, (int, float)) and k != "step"}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, facts["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=facts["step"])

    def _write(self, text: str) -> None:
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot be written ({error.strerror}); make room and say "
                f"--resume latest"
            ) from error

    def close(self) -> None:
        """Finish the logs."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def peak_flops() -> float | None:
    """Return the GPU's dense bf16 peak in operations a second, or None where it is not known."""
    words = re.split(r"[\s-]", torch.cuda.get_device_name())
    if "PCIe" in words:
        return None  # slower than their namesakes
    return next((1e12 * tera for chip, tera in _PEAK_TFLOPS.items() if chip in words), None)


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Lend a counter of what is computed here, without fused attention, which hides from it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_flops(tower: nn.Module, spec: TowerSpec) -> float:
    """Return the floating point operations of one forward pass of one sample."""
    device = next(tower.parameters()).device
    image = torch.zeros(1, 3, spec.size_px, spec.size_px, device=device)
    training = tower.training
    with torch.no_grad(), counting_flops() as counter:
        tower.eval()(image)
    tower.train(training)
    return float(counter.get_total_flops())


def _open_tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "log.tensorboard: tensorboard is not installed; run pip install 'ezsr[train]', or say "
            "--log.tensorboard false"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


def _open_wandb(config: TrainConfig) -> Any:
    if config.log.wandb is None:
        return None
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"log.wandb {config.log.wandb}: wandb is not installed; run pip install 'ezsr[wandb]'"
        ) from error
    return wandb.init(project=config.log.wandb)


def draw_inputs(path: Path, images: Tensor, columns: int = 8, rows: int = 4) -> None:
    """Write event images (B, 3, S, S) as a sheet, each scaled to its own range."""
    shown = images[: columns * rows].detach().float().cpu()
    low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
    bytes_ = ((shown - low) / (high - low).clamp(min=1e-9) * 255).byte().permute(0, 2, 3, 1).numpy()
    side = bytes_.shape[1]
    lines = -(-len(bytes_) // columns)
    sheet = np.full((lines * (side + 2), min(columns, len(bytes_)) * (side + 2), 3), 64, np.uint8)
    for n, image in enumerate(bytes_):
        top, left = n // columns * (side + 2) + 1, n % columns * (side + 2) + 1
        sheet[top : top + side, left : left + side] = image
    _save(Image.fromarray(sheet), path)


def _save(image: Image.Image, path: Path) -> None:
    try:
        image.save(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def draw_curve(out: Path) -> None:
    """Draw the losses and accuracies of `metrics.jsonl` over the samples seen."""
    from matplotlib.figure import Figure

    lines = list(_read_metrics(out / METRICS_FILE))
    by_step = {(line["step"], "zero_shot_top1_events" in line): line for line in lines}
    found = [by_step[key] for key in sorted(by_step)]
    scored = [line for line in found if "zero_shot_top1_events" in line]
    figure = Figure(figsize=(10, 4) if scored else (6, 4), layout="constrained")
    panels = figure.subplots(1, 1 + bool(scored), squeeze=False)[0]
    for name in ("loss", "scalar", "infonce", "cosine"):
        points = [(line["samples"], line[name]) for line in found if name in line]
        if points:
            style = "." if len(points) == 1 else "-"
            panels[0].plot(*zip(*points, strict=True), style, label=name)
    panels[0].set(xlabel="samples seen", ylabel="loss")
    if scored:
        samples = [line["samples"] for line in scored]
        low, top1, high = (
            [100 * line[f"zero_shot_top1_events{end}"] for line in scored]
            for end in ("_low", "", "_high")
        )
        panels[1].plot(samples, top1, "k.-", label="events")
        panels[1].fill_between(samples, low, high, color="k", alpha=0.15, label="95% interval")
        for name, color, label in (
            ("teacher_top1_rgb", "tab:red", "teacher, RGB pictures"),
            ("chance", "grey", "chance"),
        ):
            if name in scored[-1]:
                panels[1].axhline(100 * scored[-1][name], color=color, ls="--", label=label)
        panels[1].set(xlabel="samples seen", ylabel="zero-shot top-1 (%)", ylim=(-2, 102))
    for panel in panels:
        if panel.get_legend_handles_labels()[0]:
            panel.legend()
    figure.savefig(out / CURVE_FILE, dpi=120)


def _read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # cut by an end of power or space
            yield json.loads(line)
