"""Corrected p of random fields, against those of SPM and relations between fields."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nipype_blm.core.randomfield import (
    Field,
    compute_cluster_p,
    compute_ec_densities,
    compute_voxel_p,
    find_cluster_extent,
    find_voxel_threshold,
)

# SPM 12 r7771 under Octave 7.3, by randomfield.m beside it.
OF_SPM = Path(__file__).parents[1] / "oracles" / "randomfield.tsv"
BRAIN = [1, 33.9, 373.6, 1323.4]
N_VOXELS = 20_000


@pytest.fixture(scope="module")
def cases():
    return np.genfromtxt(OF_SPM, delimiter="\t", names=True, dtype=None, encoding="utf-8")


def read_case(row):
    field = Field(str(row["test"]), float(row["df2"]), float(row["df1"]))
    return field, float(row["height"]), [float(row[f"R{i}"]) for i in range(4)]


def test_p_of_voxels_and_clusters_equal_those_of_spm(cases):
    assert len(cases) > 100
    for row in cases:
        field, height, counts = read_case(row)
        # SPM takes upper tails as 1 less lower ones, and no density below 2e-16.
        of_spm = 4e-16
        p = compute_voxel_p(field, height, counts)
        assert_allclose(p, row["p"], rtol=1e-9, atol=10 * of_spm)
        p = compute_voxel_p(field, height, counts, N_VOXELS)
        assert_allclose(p, row["p_or_bonferroni"], rtol=1e-9, atol=N_VOXELS * of_spm)
        tails = compute_cluster_p(field, height, row["extent"], counts)
        assert_allclose(tails.n_expected, row["n_clusters"], rtol=1e-9, atol=10 * of_spm)
        if row["p_or_bonferroni"] > 1e-4:  # where 1 less the lower tail has digits
            assert_allclose(tails.mean_extent, row["mean_extent"], rtol=1e-5)
            assert_allclose(tails.p_one, row["p_one_cluster"], rtol=1e-4, atol=1e-30)
            assert_allclose(tails.p, row["p_cluster"], rtol=1e-4, atol=of_spm)


def test_thresholds_equal_those_of_spm(cases):
    seen = {(str(row["test"]), row["df1"], row["df2"], row["R3"], row["R1"]): row for row in cases}
    assert len(seen) > 20
    for row in seen.values():
        field, _, counts = read_case(row)
        # SPM ends its iterations at a step of 1e-6.
        assert_allclose(find_voxel_threshold(field, 0.05, counts), row["threshold"], rtol=1e-6)


def test_t_with_many_degrees_of_freedom_is_z_and_f_of_one_row_is_t_from_both_sides():
    u = np.array([1.7, 3.0, 5.0])
    z = compute_ec_densities(Field("Z"), u)
    assert_allclose(compute_ec_densities(Field("T", 1e9), u), z, rtol=1e-6)
    t = compute_ec_densities(Field("T", 17), u)
    assert_allclose(compute_ec_densities(Field("F", 17, 1), u**2), 2 * t, rtol=1e-10)
    # Of many degrees of freedom, too: the terms are of one size.
    f = compute_ec_densities(Field("F", np.inf, 1), u**2)
    assert_allclose(f, 2 * z, rtol=1e-6)


def test_far_tails_keep_their_digits():
    p = compute_voxel_p(Field("Z"), [20.0, 37.0], BRAIN)
    assert (p > 0).all()
    z = 20.0
    first = 1323.4 * (4 * np.log(2)) ** 1.5 / (2 * np.pi) ** 2 * (z**2 - 1) * np.exp(-(z**2) / 2)
    assert 1 < p[0] / first < 1.1  # the other dimensions


def test_heights_without_evidence_have_a_p_of_1_and_nan_stays():
    for field in (Field("Z"), Field("T", 12), Field("F", 12, 1), Field("F", 12, 3)):
        found = compute_voxel_p(field, [[-3.0, 0.0], [np.nan, 1e-9]], BRAIN)
        assert found.shape == (2, 2)
        assert (found[0] == 1).all()
        assert np.isnan(found[1, 0])
        assert 0 <= found[1, 1] <= 1


def test_a_threshold_and_an_extent_have_their_probability():
    for field in (Field("Z"), Field("T", 8.5), Field("F", 30, 2)):
        u = find_voxel_threshold(field, 0.01, BRAIN)
        assert_allclose(compute_voxel_p(field, u, BRAIN), 0.01, rtol=1e-9)
        height = find_voxel_threshold(field, 0.001, [1, 0, 0, 0])
        k = find_cluster_extent(field, height, 0.05, BRAIN)
        assert_allclose(compute_cluster_p(field, height, k, BRAIN).p, 0.05, rtol=1e-9)
    assert find_voxel_threshold(Field("Z"), 0.05, BRAIN, 100) < 3.5  # Bonferroni's
    assert find_cluster_extent(Field("Z"), 6.0, 0.05, BRAIN) == 0  # any cluster is rare


def test_a_cluster_forming_height_that_is_too_low_is_refused():
    with pytest.raises(ValueError, match=r"Z = 0\.5 makes no clusters .*from z = 2\.3 on"):
        compute_cluster_p(Field("Z"), 0.5, [1.0], BRAIN)
