"""The arithmetic of the benchmarks whose figures are printed."""

from __future__ import annotations

import sys
from math import comb

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from transfer import compare_pairs


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
