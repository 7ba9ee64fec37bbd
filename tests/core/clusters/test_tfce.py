"""TFCE against sums over all heights, a fine integral, and the package tfce."""

import sys

import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label
from scipy.sparse.csgraph import connected_components

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.tfce import compute_tfce
from nipype_blm.core.clusters.tree import LARGEST, grow_tree
from nipype_blm.data.volumes import VolumeSpace

# Sums over at most a few hundred heights, in float64; the values are exact in float32.
RTOL = 1e-12
WITHOUT_WHEELS = (3, 14)  # of the package tfce


def enhance(values: np.ndarray, graph, E: float = 0.5, H: float = 2.0) -> np.ndarray:
    tree = grow_tree(values, graph)
    return tree.put(compute_tfce(tree, E, H))


def sum_over_heights(case, E: float, H: float) -> np.ndarray:
    """TFCE by the components above each of the heights that occur."""
    values = np.nan_to_num(case.values.astype(float), posinf=LARGEST, neginf=-LARGEST, nan=-1)
    out = np.zeros(values.size)
    low = 0.0
    for height in np.unique(values[values > 0]):
        inside = values >= height
        n, labels = connected_components(case.touches[inside][:, inside])
        extent = np.bincount(labels, minlength=n).astype(float)
        out[inside] += extent[labels] ** E * (height ** (H + 1) - low ** (H + 1)) / (H + 1)
        low = height
    return out


@pytest.mark.parametrize(("E", "H"), [(0.5, 2.0), (1.0, 2.0), (0.7, 1.3), (0.0, 0.0)])
def test_it_is_the_sum_over_all_heights(case, E, H):
    found = enhance(case.values, case.graph, E, H)
    np.testing.assert_allclose(found, sum_over_heights(case, E, H), rtol=RTOL)


def integrate(volume: np.ndarray, n_steps: int, structure: np.ndarray) -> np.ndarray:
    """TFCE by the midpoint rule."""
    step = volume.max() / n_steps
    out = np.zeros(volume.shape)
    for height in (np.arange(n_steps) + 0.5) * step:
        labels, _ = label(volume > height, structure)
        extent = np.bincount(labels.ravel()).astype(float)
        extent[0] = 0
        out += np.sqrt(extent[labels]) * height**2 * step
    return out


def make_volume(n_neighbours: int):
    """Return a volume, 0 outside of a mask with holes, its mask and its graph."""
    rng = np.random.default_rng(4)
    mask = rng.random((12, 14, 11)) < 0.9
    rough = rng.standard_normal(mask.shape)
    volume = (rough + np.roll(rough, 1, 0) + np.roll(rough, 1, 1) + np.roll(rough, 1, 2)) * mask
    space = VolumeSpace(mask.shape, b"", mask.ravel(order="F"))
    return volume.astype(np.float32), space.mask, make_graph(space.find_neighbours(n_neighbours))


def test_finer_and_finer_sums_come_closer_in_proportion():
    volume, mask, graph = make_volume(26)
    exact = enhance(volume.ravel(order="F")[mask], graph)
    structure = generate_binary_structure(3, 3)
    errors = [
        np.abs(integrate(volume, n_steps, structure).ravel(order="F")[mask] - exact).mean()
        for n_steps in (50, 200, 800)
    ]
    # The midpoint rule misses jumps of the extent by half a step on average: first order.  Means
    # over 1,600 voxels scatter around a ratio of 4.
    assert 3 < errors[0] / errors[1] < 5.3
    assert 3 < errors[1] / errors[2] < 5.3
    assert errors[2] < 3e-3 * exact.mean()


@pytest.mark.parametrize("n_neighbours", [6, 18, 26])
def test_it_is_what_the_package_tfce_computes(n_neighbours):
    if sys.version_info >= WITHOUT_WHEELS:
        pytest.importorskip("tfce")
    import tfce

    volume, mask, graph = make_volume(n_neighbours)
    values = volume.ravel(order="F")[mask]
    found = enhance(values, graph) - enhance(-values, graph)
    other = tfce.tfce(volume, connectivity=n_neighbours).ravel(order="F")[mask]
    # The other one returns float32.
    np.testing.assert_allclose(found, other, rtol=1e-6, atol=1e-6 * np.abs(found).max())
