"""What a proposition's function returns: the two sides of an identity, and how far they differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sides(NamedTuple):
    """The two sides of an identity, arrays of one shape. An entry of them is called a cell."""

    left: np.ndarray
    right: np.ndarray

    @property
    def deviation(self) -> float:
        """The largest |left - right| / max(1, |left|, |right|) of any cell; inf if one is NaN."""
        left, right = np.broadcast_arrays(self.left, self.right)
        with np.errstate(invalid="ignore"):
            gap = np.abs(left - right) / np.maximum(1, np.maximum(np.abs(left), np.abs(right)))
        gap = np.where(left == right, 0.0, np.where(np.isnan(gap), np.inf, gap))
        return float(gap.max(initial=0.0))


class PairSides(NamedTuple):
    """The two sides for pairs i < j of tokens that can follow a prefix. All arrays are [pairs]."""

    left: np.ndarray
    right: np.ndarray
    depth: np.ndarray
    """Tokens of the prefix."""
    prefix: np.ndarray
    """Number of the prefix among those of its depth, as in `exact`."""
    i: np.ndarray
    j: np.ndarray

    @property
    def deviation(self) -> float:
        """The largest deviation of any pair, as `Sides.deviation`."""
        return Sides(self.left, self.right).deviation
