"""The arithmetic of the benchmarks whose figures are printed."""

from __future__ import annotations

import sys
from math import comb

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_shards.events import EventStream  # noqa: E402
from ezsr_train.config import InputConfig  # noqa: E402
from ezsr_train.prepare import View, cut_slice  # noqa: E402
from ezsr_train.recording import StreamRecording  # noqa: E402

sys.path.insert(0, str(ROOT / "benchmarks"))

from authors_check import Seen, compare_seen, fixed_chance  # noqa: E402
from transfer import compare_pairs  # noqa: E402


def test_pairs_are_compared_by_those_that_differ() -> None:
    """Ten recordings; one only the first names, four only the second: McNemar's exact test."""
    first = {str(n): n < 5 for n in range(10)}
    second = {str(n): 1 <= n < 9 for n in range(10)}
    found = compare_pairs(first, second)
    assert (found["won"], found["lost"]) == (4, 1)
    assert found["top-1 change"] == pytest.approx(0.3)
    assert found["McNemar p"] == pytest.approx(2 * (comb(5, 0) + comb(5, 1)) / 32)
    low, high = found["95%"]
    spread = 1.96 * ((5 - 9 / 10) ** 0.5) / 10
    assert (low, high) == pytest.approx((0.3 - spread, 0.3 + spread))
    same = compare_pairs(first, first)
    assert same["McNemar p"] == 1.0
    assert same["95%"] == [0.0, 0.0]


@pytest.mark.parametrize("view", [View(7, 0.0), View(7, 0.99), View(7, 0.5), View(30, 0.3)])
def test_the_draws_given_to_another_evaluator_are_our_slice(view: View) -> None:
    x = np.arange(20, dtype=np.uint16)
    stream = EventStream(x, x, x.astype(np.int64), x % 2, 20, 20, 20)
    chance = fixed_chance(view, len(stream))
    length = chance.randint(13_000, 17_000)
    start = chance.choice(range(max(len(x) - length + 1, 0)))
    ours = cut_slice(StreamRecording(stream), InputConfig(), 20, view)
    assert np.array_equal(ours.x, x[start : start + length])


def test_the_largest_difference_of_two_evaluations_is_told() -> None:
    rows = {name: torch.eye(4)[n] for n, name in enumerate("abc")}
    images = {name: torch.zeros(3, 2, 2) for name in rows}
    ours = Seen(images, rows)
    same = compare_seen(ours, Seen(dict(reversed(images.items())), dict(reversed(rows.items()))))
    assert same["largest logit difference"] == same["largest event image difference"] == 0
    assert same["other answers"] == 0
    other = Seen({**images, "b": torch.full((3, 2, 2), -0.25)}, {**rows, "b": -rows["b"]})
    found = compare_seen(ours, other)
    assert found["largest event image difference"] == 0.25
    assert found["other answers"] == 1
    assert 0 < found["largest logit difference"] <= 200
