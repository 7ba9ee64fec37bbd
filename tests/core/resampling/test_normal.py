"""Deviates of shares against the tails of T and F."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.resampling.normal import find_peaks, share_to_z
from nipype_blm.core.tails import compute_f_tails, compute_t_tails


def to_z(share: np.ndarray, m: int, q: int) -> np.ndarray:
    return share_to_z(share[None], np.array([m], np.int32), q)[0]


@pytest.mark.parametrize("q", [1, 2, 3, 8])
@pytest.mark.parametrize("extra", [1, 2, 8, 92, 100_000])
def test_deviates_are_those_of_the_tails(q, extra):
    m = q + extra
    y = np.concatenate([np.geomspace(2e-3, 1, 500), np.linspace(1, 42, 4000)])
    share = np.unique((-np.expm1(-(y**2) / m)).astype(np.float32))
    u = share[(share > 0) & (share < 1)].astype(float)
    f = (m - q) / q * u / (1 - u)
    expected = compute_t_tails(np.sqrt(f), m - 1).z if q == 1 else compute_f_tails(f, q, m - q).z
    z = to_z(u.astype(np.float32), m, q)
    kept = expected < 38
    # The steps of the tables leave 1e-5, and single precision 6e-8 of z.
    assert_allclose(z[kept], expected[kept], rtol=6e-8, atol=2e-5 if q > 1 else 1e-5)
    assert (np.diff(z) >= 0).all()
    if q == 1:
        assert_array_equal(to_z(-u.astype(np.float32), m, q), -z)


@pytest.mark.parametrize("q", [1, 2])
def test_shares_at_the_ends_have_finite_deviates(q):
    z = to_z(np.array([0, 1 - 6e-8, 1], np.float32), 12, q)
    assert np.isfinite(z).all()
    assert z[1] == z[2]
    assert z[0] == 0 if q == 1 else z[0] < -4


@pytest.mark.parametrize(("q", "two_sided"), [(1, True), (1, False), (2, False)])
def test_peaks_are_the_largest_deviates(q, two_sided):
    rng = np.random.default_rng(0)
    share = rng.uniform(-1 if q == 1 else 0, 1, (200, 30)).astype(np.float32) ** 3
    m = rng.choice(np.array([0, 10, 15, 80], np.int32), 200)
    z = share_to_z(share, m, q)
    assert not z[m == 0].any()
    tested = abs(z[m > 0]) if two_sided else z[m > 0]
    assert_array_equal(find_peaks(share, m, q, two_sided), tested.max(axis=0))
    assert_array_equal(find_peaks(share, 0 * m, q, two_sided), -np.inf)
    assert_array_equal(share_to_z(share, m, q, out=share), z)
    assert_array_equal(share, z)
