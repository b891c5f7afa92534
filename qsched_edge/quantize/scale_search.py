"""Scales and zero points that minimise the squared error of the values as they will be stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import SMALLEST, QuantizedMatrix, rounded_up
from qsched_edge.quantize.moments import Moments

SHRINK = np.linspace(1.0, 0.5, 11, dtype=np.float32)  # shares of the full range that are tried
SHIFTS = (0, -1, 1)  # zero points are tried beside the nearest one: cutting one end more than the other
REFITS = 2  # rounds of the least-squares scale for the integers found
BLOCK = 2**16  # values worked on at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Grid:
    """Scale float16 and zero float32, both [G], of G groups whose integers run from 0 to `top`."""

    scale: np.ndarray
    zero: np.ndarray
    top: int

    def integers(self, groups: np.ndarray) -> np.ndarray:
        """float32 [G, g] of whole numbers nearest to `groups` [G, g]."""
        q = groups / self.scale.astype(np.float32)[:, None]
        np.rint(q, out=q)
        q += self.zero[:, None]
        return np.clip(q, 0, self.top, out=q)

    def error(self, groups: np.ndarray, importance: np.ndarray) -> np.ndarray:
        """float32 [G]: importance-weighted squared error of each group."""
        residual = self.integers(groups)
        residual -= self.zero[:, None]
        residual *= self.scale.astype(np.float32)[:, None]
        residual -= groups
        residual *= residual
        residual *= importance
        return residual.sum(axis=1)


def least_squared_error(weight: np.ndarray, scheme: Scheme, moments: Moments | None = None) -> QuantizedMatrix:
    """float32 [N, K] -> integers whose scales were searched; columns weigh as much as their inputs' second moments."""
    rows, width = weight.shape
    g = scheme.group_for(width)
    blocks = -(-width // g)
    importance = np.zeros((1, blocks * g), np.float32)
    importance[:, :width] = 1.0 if moments is None else moments.importance
    padded = np.zeros((rows, blocks * g), np.float32)
    padded[:, :width] = weight
    groups = padded.reshape(-1, g)
    grid = searched_grid(groups, np.tile(importance.reshape(blocks, g), (rows, 1)), scheme)
    q = grid.integers(groups).astype(np.uint8).reshape(rows, -1)[:, :width]
    zero = grid.zero.astype(np.uint8).reshape(rows, blocks)
    return QuantizedMatrix(q, grid.scale.reshape(rows, blocks), zero, scheme.weight_bits, g)


def searched_grid(groups: np.ndarray, importance: np.ndarray, scheme: Scheme) -> Grid:
    """The best grid found for each of `groups` float32 [G, g]; `importance` has the same shape."""
    step = max(1, BLOCK // groups.shape[1])
    pieces = [slice(start, start + step) for start in range(0, len(groups), step)]
    parts = [searched_block(groups[piece], importance[piece], scheme) for piece in pieces]
    return Grid(np.concatenate([p.scale for p in parts]), np.concatenate([p.zero for p in parts]), parts[0].top)


def searched_block(groups: np.ndarray, importance: np.ndarray, scheme: Scheme) -> Grid:
    """Try every shrunken range with zero points beside its own, then refit the scale to the integers."""
    full = full_range(groups, scheme)
    best, error = full, full.error(groups, importance)
    for shift in (0,) if scheme.symmetric else SHIFTS:
        zero = np.clip(full.zero + shift, 0, full.top)
        for shrink in SHRINK:
            best, error = better(best, error, Grid(half(full.scale * shrink), zero, full.top), groups, importance)
    for _ in range(REFITS):
        best, error = better(best, error, refitted(best, groups, importance), groups, importance)
    return best


def full_range(groups: np.ndarray, scheme: Scheme) -> Grid:
    """From each group's smallest to its largest value, zero included; symmetric: zero in the middle."""
    top = 2**scheme.weight_bits - 1
    low, high = np.minimum(groups.min(axis=1), 0), np.maximum(groups.max(axis=1), 0)
    if scheme.symmetric:
        middle = 2 ** (scheme.weight_bits - 1)
        scale = half(rounded_up(np.maximum(-low, high) / (middle - 1)))
        return Grid(scale, np.full(len(groups), middle, np.float32), top)
    scale = half(rounded_up((high - low) / top))
    return Grid(scale, np.clip(np.rint(-low / scale.astype(np.float32)), 0, top), top)


def half(scale: np.ndarray) -> np.ndarray:
    """As it is stored; never zero, so that it divides; infinite beyond float16's range, which `encode` refuses."""
    return np.maximum(scale.astype(np.float32), np.float32(SMALLEST)).astype(np.float16)


def refitted(grid: Grid, groups: np.ndarray, importance: np.ndarray) -> Grid:
    """The same integers with the scale that fits them best in the least-squares sense."""
    steps = grid.integers(groups) - grid.zero[:, None]
    weighted = steps * importance
    norm = np.einsum("gk,gk->g", weighted, steps)
    fit = np.einsum("gk,gk->g", weighted, groups) / np.maximum(norm, np.finfo(np.float32).tiny)
    return Grid(half(np.where(norm > 0, fit, grid.scale)), grid.zero, grid.top)


def better(
    best: Grid, error: np.ndarray, other: Grid, groups: np.ndarray, importance: np.ndarray
) -> tuple[Grid, np.ndarray]:
    """Group by group the grid with the smaller error, and that error."""
    found = other.error(groups, importance)
    wins = found < error
    scale, zero = np.where(wins, other.scale, best.scale), np.where(wins, other.zero, best.zero)
    return Grid(scale, zero, best.top), np.where(wins, found, error)
