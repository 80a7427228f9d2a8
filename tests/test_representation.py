"""Event images against plain twins that share no code with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_train.representation import (  # noqa: E402
    REPRESENTATIONS,
    PackedEvents,
    count_events,
    histogram,
    polarity_image,
    time_surface,
    voxel_grid,
)

SIZE = 16


def packed(seed: int, counts: tuple[int, ...] = (300, 0, 1, 2000)) -> PackedEvents:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)

    def draw(top: int) -> torch.Tensor:
        return torch.randint(0, top, (total,), generator=generator)

    x = (draw(SIZE) * draw(SIZE)) // SIZE  # uneven, so that some pixels are hot
    offsets = torch.tensor([0, *counts]).cumsum(0)
    t = torch.rand(total, generator=generator)
    return PackedEvents(x.byte(), draw(SIZE).byte(), t, draw(2).byte(), offsets)


def of_sample(events: PackedEvents, n: int) -> list[tuple[int, int, float, int]]:
    part = slice(int(events.offsets[n]), int(events.offsets[n + 1]))
    columns = (events.x[part], events.y[part], events.t[part], events.p[part])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_histogram_is_the_authors_to_the_last_bit(seed: int) -> None:
    events = packed(seed)
    images = histogram(events, SIZE)
    for n in range(len(events)):
        expected = reference.official_histogram(of_sample(events, n), SIZE)
        assert np.array_equal(images[n, 0].numpy(), expected)
        assert torch.equal(images[n, 0], images[n, 2])


def test_the_polarity_image_keeps_what_the_histogram_averages() -> None:
    events = packed(7)
    images = polarity_image(events, SIZE)
    assert torch.equal(images[:, :2].mean(1), histogram(events, SIZE)[:, 0])
    assert not torch.equal(images[:, 0], images[:, 1])


def test_counts_are_exact() -> None:
    events = packed(1)
    counts = count_events(events, SIZE)
    assert counts.sum() == len(events.x)
    for x, y, _, p in of_sample(events, 2):
        assert counts[2, 1 - p, y, x] == 1


def test_voxel_grid_and_time_surface_agree_with_loops() -> None:
    events = packed(2)
    grid, surface = voxel_grid(events, SIZE, 5), time_surface(events, SIZE)
    for n in range(len(events)):
        expected = reference.voxel_grid(of_sample(events, n), SIZE, 5)
        assert np.allclose(grid[n].numpy(), expected, atol=1e-5)
        latest = np.zeros((2, SIZE, SIZE))
        for x, y, t, p in of_sample(events, n):
            latest[1 - p, y, x] = max(latest[1 - p, y, x], t)
        assert np.allclose(surface[n, :2].numpy(), latest)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    events = packed(3, (500, 40, 7, 900))
    whole = REPRESENTATIONS[name](events, SIZE)
    assert whole.shape == (4, 3, SIZE, SIZE)
    halves = [REPRESENTATIONS[name](part, SIZE) for part in events.split(2)]
    assert torch.equal(torch.cat(halves), whole)


def test_the_histogram_equals_the_published_evaluators_on_a_real_recording(
    real_data: Path,
) -> None:
    """640x480 scaled to 224x224 as the authors do it, float16 rounding included."""
    from ezsr_train.prepare import scale_axis

    with np.load(real_data / "n-imagenet" / "recording.npz") as archive:
        x, y, p = (archive["event_data"][name] for name in "xyp")
    rng = np.random.default_rng(0)
    for _ in range(3):
        start = int(rng.integers(len(x) - 15_000))
        part = slice(start, start + 15_000)
        across, down = scale_axis(640, 0, 640, 224), scale_axis(480, 0, 480, 224)
        offsets = torch.tensor([0, 15_000])
        columns = (across[x[part]], down[y[part]], np.empty(0, "f4"), p[part].astype("u1"))
        events = PackedEvents(*(torch.from_numpy(np.array(c)) for c in columns), offsets)
        scaled = [
            (
                int(np.float16(np.float32(a) * np.float32(224 / 640))),
                int(np.float16(np.float32(b) * np.float32(224 / 480))),
                0.0,
                int(c),
            )
            for a, b, c in zip(x[part].tolist(), y[part].tolist(), p[part].tolist(), strict=True)
        ]
        expected = reference.official_histogram(scaled, 224)
        assert np.array_equal(histogram(events, 224)[0, 0].numpy(), expected)
