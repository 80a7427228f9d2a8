"""Losses against their formulas, and what they remember."""

from __future__ import annotations

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_train.config import LossConfig  # noqa: E402
from ezsr_train.loss import AlignmentLoss, infonce_loss, scalar_loss  # noqa: E402


def pair(rows: int = 6, width: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    events, pictures = (torch.randn(rows, width, generator=generator) for _ in range(2))
    return events, pictures


def test_scalar_losses_agree_with_their_formulas() -> None:
    events, pictures = pair()
    e, p = events.numpy().astype(float), pictures.numpy().astype(float)
    assert scalar_loss(events, pictures, "l1", "raw").item() == pytest.approx(abs(e - p).mean())
    assert scalar_loss(events, pictures, "l2", "raw").item() == pytest.approx(((e - p) ** 2).mean())
    standard = (e - p.mean(0)) / p.std(0) - (p - p.mean(0)) / p.std(0)
    found = scalar_loss(events, pictures, "l1", "standard").item()
    assert found == pytest.approx(abs(standard).mean(), rel=1e-5)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) * 8**0.5 for side in (e, p)]
    found = scalar_loss(events, pictures, "l2", "unit").item()
    assert found == pytest.approx(((unit[0] - unit[1]) ** 2).mean(), rel=1e-5)
    for kind in ("l1", "l2", "smooth_l1"):
        assert scalar_loss(events, 3 * events, kind, "unit").item() == pytest.approx(0, abs=1e-6)


def test_infonce_agrees_with_its_formula() -> None:
    events, pictures = pair()
    e, p = events.numpy().astype(float), pictures.numpy().astype(float)
    expected = reference.infonce(e, p, 0.1)
    assert infonce_loss(events, pictures, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_the_queue_adds_negatives_to_the_events_side() -> None:
    events, pictures = pair()
    queue = torch.nn.functional.normalize(pair(5, seed=1)[0], dim=1)
    e, p, q = (side.numpy().astype(float) for side in (events, pictures, queue))
    e, p = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (e, p))
    to_pictures = np.exp(np.concatenate([e @ p.T, e @ q.T], axis=1) / 0.1)
    to_events = np.exp(p @ e.T / 0.1)
    own = range(6)
    first = -np.log(to_pictures[own, own] / to_pictures.sum(1)).mean()
    second = -np.log(to_events[own, own] / to_events.sum(1)).mean()
    found = infonce_loss(events, pictures, 0.1, queue).item()
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_queue_holds_the_latest_pictures() -> None:
    loss = AlignmentLoss(LossConfig(queue=5), 8)
    batches = [pair(3, seed=seed)[1] for seed in range(3)]
    for count, batch in zip((3, 5, 5), batches, strict=True):
        loss.remember(batch)
        assert int(loss.queued) == count
    expected = torch.nn.functional.normalize(torch.cat([batches[2], batches[1][:2]]), dim=1)
    assert torch.allclose(loss.queue, expected)


def test_parts_add_up_and_the_temperature_learns_only_when_told() -> None:
    events, pictures = pair()
    loss = AlignmentLoss(LossConfig(scalar=2, infonce=3, cosine=4), 8)
    parts = loss(events, pictures)
    total = sum(float(part) for name, part in parts.items() if name != "loss")
    assert float(parts["loss"].detach()) == pytest.approx(total)
    assert list(loss.parameters()) == []
    learning = AlignmentLoss(LossConfig(learn_temperature=True), 8)
    learning(events, pictures)["loss"].backward()
    assert learning.temperature_log.grad.abs() > 0
    assert learning.temperature.item() == pytest.approx(0.07)
    with torch.no_grad():
        learning.temperature_log.fill_(-9.0)
    learning.keep_in_bounds()
    assert learning.temperature.item() == pytest.approx(0.01)
