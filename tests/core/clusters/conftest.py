"""Maps and graphs on which trees are grown."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

from nipype_blm.core.clusters.graph import Graph, make_graph


class Case(NamedTuple):
    """A map and which of its features touch."""

    values: np.ndarray
    touches: csr_array

    @property
    def graph(self) -> Graph:
        return make_graph(self.touches)


def connect(n: int, pairs: np.ndarray) -> csr_array:
    first, second = np.array(pairs, int).reshape(-1, 2).T
    ones = np.ones(2 * first.size, bool)
    return csr_array((ones, (np.r_[first, second], np.r_[second, first])), (n, n))


def connect_voxels(mask: np.ndarray, most_different: int) -> csr_array:
    """Voxels of a mask, in the order of C, by the distances of all pairs."""
    steps = np.abs(np.argwhere(mask)[:, None] - np.argwhere(mask))
    pairs = np.argwhere((steps.max(axis=2) == 1) & (steps.sum(axis=2) <= most_different))
    return connect(np.count_nonzero(mask), pairs)


def connect_mesh(n: int) -> csr_array:
    """A torus of n by n vertices, of triangles."""
    vertices = itertools.product(range(n), repeat=2)
    return connect(
        n * n,
        [
            (i * n + j, (i + di) % n * n + (j + dj) % n)
            for i, j in vertices
            for di, dj in [(0, 1), (1, 0), (1, 1)]
        ],
    )


def smooth(shape: tuple[int, ...], seed: int, sigma: float = 1.2) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (2 * noise / noise.std()).astype(np.float32)


def _make_ring() -> Case:
    steps = np.arange(60)
    pairs = np.column_stack([steps, (steps + 1) % 60])
    return Case(smooth((60,), 5), connect(60, pairs))


def _make_holes(most_different: int) -> Case:
    mask = np.random.default_rng(1).random((7, 8, 6)) < 0.7
    return Case(smooth(mask.shape, 2)[mask], connect_voxels(mask, most_different))


def _change(values: Callable[[np.ndarray], np.ndarray]) -> Case:
    case = _make_holes(3)
    return case._replace(values=values(case.values).astype(np.float32))


def _spoil(values: np.ndarray) -> np.ndarray:
    spoilt = values.copy()
    spoilt[::7], spoilt[3], spoilt[4] = np.nan, np.inf, -np.inf
    return spoilt


CASES: dict[str, Callable[[], Case]] = {
    "by faces": lambda: _make_holes(1),
    "by edges": lambda: _make_holes(2),
    "by corners": lambda: _make_holes(3),
    "ring": _make_ring,
    "mesh": lambda: Case(smooth((12, 12), 4).ravel(), connect_mesh(12)),
    "white noise": lambda: _change(lambda v: np.random.default_rng(3).standard_normal(v.size)),
    "ties": lambda: _change(np.round),
    "plateau": lambda: _change(lambda values: np.full(values.size, 4)),
    "two values": lambda: _change(lambda values: np.where(values > 0, 4, -4)),
    "tiny": lambda: _change(lambda values: 1e-12 * values),
    "huge": lambda: _change(lambda values: 1e12 * values),
    "nothing above 0": lambda: _change(lambda values: -np.abs(values)),
    "missing and infinite": lambda: _change(_spoil),
    "nothing but missing": lambda: _change(lambda values: np.full(values.size, np.nan)),
    "alone": lambda: Case(smooth((30,), 6), connect(30, np.empty((0, 2)))),
    "one feature": lambda: Case(np.float32([3.5]), connect(1, np.empty((0, 2)))),
    "no feature": lambda: Case(np.empty(0, np.float32), connect(0, np.empty((0, 2)))),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]()
