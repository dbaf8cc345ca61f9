"""How far predictions are from measurements; definitions as published for these runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def smape_half_pct(predicted: ArrayLike, measured: ArrayLike) -> float | None:
    """Return ``100 mean(|p - m| / (|p| + |m|))``, half the usual SMAPE; None without finite pairs.

    A pair of zeros counts as exact. Pairs where either side is NaN are left out.
    """
    p, m = _finite_pairs(predicted, measured)
    if p.size == 0:
        return None
    scale = np.abs(p) + np.abs(m)
    return float(100.0 * np.mean(np.divide(np.abs(p - m), scale, out=np.zeros_like(p), where=scale > 0)))


def mape_pct(predicted: ArrayLike, measured: ArrayLike) -> float | None:
    """Return ``100 mean(|p - m| / |m|)`` over pairs with m != 0; None without finite pairs."""
    p, m = _finite_pairs(predicted, measured)
    p, m = p[m != 0], m[m != 0]
    if p.size == 0:
        return None
    return float(100.0 * np.mean(np.abs(p - m) / np.abs(m)))


def accuracy(predicted: ArrayLike, measured: ArrayLike) -> float | None:
    """Return the share of equal verdicts; None where there are none."""
    p, m = np.asarray(predicted, dtype=bool), np.asarray(measured, dtype=bool)
    return float(np.mean(p == m)) if p.size else None


def f1(predicted: ArrayLike, measured: ArrayLike) -> float | None:
    """Return the F1 score of the positive verdicts; None where neither side has one."""
    p, m = np.asarray(predicted, dtype=bool), np.asarray(measured, dtype=bool)
    positives = int(p.sum()) + int(m.sum())
    return float(2 * np.sum(p & m) / positives) if positives else None


def _finite_pairs(predicted: ArrayLike, measured: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    keep = np.isfinite(p) & np.isfinite(m)
    return p[keep], m[keep]
