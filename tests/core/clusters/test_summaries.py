"""Peaks and spreads of maps against scipy.ndimage and brute force; any number of threads."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import generate_binary_structure, label

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.summaries import (
    SUMMARIES,
    SummaryOptions,
    spread_summaries,
    summarise,
    summarise_many,
)
from nipype_blm.core.threads import Threads
from nipype_blm.data.volumes import VolumeSpace

NAMES = list(SUMMARIES)


@pytest.mark.parametrize("two_sided", [False, True])
def test_a_peak_is_the_largest_of_the_spread(case, two_sided):
    options = SummaryOptions(height=1.5, E=0.6, H=1.7)
    peaks = summarise(case.values, case.graph, NAMES, two_sided, options)
    spread = spread_summaries(case.values, case.graph, NAMES, two_sided, options)
    assert spread.shape == (len(NAMES), case.values.size)
    if np.isnan(case.values).all():
        assert (peaks == 0).all()
    else:
        np.testing.assert_array_equal(peaks, np.nanmax(spread, axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_a_peak_alone_is_that_of_all_together(case, name):
    """Though the tree is smaller."""
    both = summarise(case.values, case.graph, NAMES)
    assert summarise(case.values, case.graph, [name]) == both[NAMES.index(name)]


@pytest.mark.parametrize("name", NAMES)
def test_low_values_count_as_high_ones_do_and_apart_from_them(case, name):
    sides = [spread_summaries(z, case.graph, [name], False)[0] for z in (case.values, -case.values)]
    both = spread_summaries(case.values, case.graph, [name])[0]
    np.testing.assert_array_equal(both, np.fmax(*sides))
    np.testing.assert_array_equal(both, spread_summaries(-case.values, case.graph, [name])[0])


def make_maps(n_maps: int):
    mask = np.random.default_rng(1).random((9, 8, 7)) < 0.8
    space = VolumeSpace(mask.shape, b"", mask.ravel(order="F"))
    z = np.random.default_rng(2).standard_normal((space.n_features, n_maps)).astype(np.float32)
    return z, mask, make_graph(space.find_neighbours(18))


@pytest.mark.parametrize("height", [0.5, 1.2, 2.5])
def test_extents_are_those_of_scipy(height):
    z, mask, graph = make_maps(1)
    volume = np.zeros(mask.shape)
    volume.T[mask.T] = z[:, 0]
    labels, n = label(volume > height, generate_binary_structure(3, 2))
    extent = np.bincount(labels.ravel(), minlength=n + 1)
    extent[0] = 0
    (spread,) = spread_summaries(
        z[:, 0], graph, ["cluster"], two_sided=False, options=SummaryOptions(height)
    )
    np.testing.assert_array_equal(spread, extent[labels].T[mask.T])


@pytest.mark.parametrize("height", [0.5, 1.2, 2.5])
def test_masses_are_sums_of_scipy(height):
    z, mask, graph = make_maps(1)
    volume = np.zeros(mask.shape)
    volume.T[mask.T] = z[:, 0]
    labels, n = label(volume > height, generate_binary_structure(3, 2))
    mass = np.append(0.0, ndimage.sum_labels(volume - height, labels, np.arange(1, n + 1)))
    (spread,) = spread_summaries(
        z[:, 0], graph, ["mass"], two_sided=False, options=SummaryOptions(height)
    )
    # Sums of at most a few hundred values, in another order.
    np.testing.assert_allclose(spread, mass[labels].T[mask.T], rtol=1e-12)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_many_maps_are_summarised_as_one(n_threads, order):
    z, _, graph = make_maps(41)
    z = np.asarray(z, order=order)
    with Threads(n_threads) as threads:
        found = summarise_many(z, graph, NAMES, threads=threads)
    expected = np.transpose([summarise(one, graph, NAMES) for one in z.T])
    np.testing.assert_array_equal(found, expected)


def test_no_map_and_no_summary_have_no_peaks():
    z, _, graph = make_maps(2)
    assert summarise_many(z[:, :0], graph, NAMES).shape == (len(NAMES), 0)
    assert summarise(z[:, 0], graph, []).shape == (0,)
    assert spread_summaries(z[:, 0], graph, []).shape == (0, z.shape[0])
