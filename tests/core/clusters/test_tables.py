"""Clusters and peaks against scipy.ndimage, nilearn and brute force."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import generate_binary_structure, label

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.tables import find_clusters, make_table
from nipype_blm.data.volumes import VolumeSpace

HEIGHT = 1.5
ZOOM = 2.5


class Volume:
    """A smooth map in a mask with holes, its features in the order of the file."""

    def __init__(self, n_neighbours: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        mask = rng.random((15, 13, 14)) < 0.95
        noise = rng.standard_normal(mask.shape)
        for axis in range(3):
            noise = noise + np.roll(noise, 1, axis) + 0.5 * np.roll(noise, 2, axis)
        self.values = np.where(mask, noise / noise.std(), 0).astype(np.float32)
        space = VolumeSpace(mask.shape, b"", mask.ravel(order="F"))
        self.mask = mask
        self.z = self.take(self.values)
        self.graph = make_graph(space.find_neighbours(n_neighbours))
        self.coordinates = ZOOM * np.argwhere(mask.T)[:, ::-1].astype(float)

    def take(self, volume: np.ndarray) -> np.ndarray:
        return volume.T[self.mask.T]


@pytest.mark.parametrize(("n_neighbours", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_clusters_are_those_of_scipy_largest_first(n_neighbours, rank):
    volume = Volume(n_neighbours)
    found = find_clusters(volume.z, volume.graph, HEIGHT)
    theirs = volume.take(label(volume.values > HEIGHT, generate_binary_structure(3, rank))[0])
    pairs = np.unique(np.column_stack([found, theirs]), axis=0)
    assert len(pairs) == theirs.max() + 1 == found.max() + 1
    assert (np.diff(np.bincount(found)[1:]) <= 0).all()


def test_a_table_has_the_clusters_of_both_signs_as_nilearn_has_them():
    from nilearn.reporting import get_clusters_table

    volume = Volume(6)  # nilearn's clusters touch by faces
    table = make_table(volume.z, volume.graph, HEIGHT, volume.coordinates, n_sub_peaks=0)
    image = nib.Nifti1Image(volume.values, np.diag([ZOOM, ZOOM, ZOOM, 1]))
    theirs = get_clusters_table(image, HEIGHT, two_sided=True)
    theirs = theirs[theirs["Cluster ID"].astype(str).str.fullmatch(r"\d+")]  # no sub-peaks
    expected = sorted(zip(theirs["Peak Stat"], theirs["Cluster Size (mm3)"], strict=True))
    found = sorted((cluster.peak.z, cluster.size * ZOOM**3) for cluster in table.clusters)
    # nilearn truncates volumes to whole numbers.
    assert_allclose([z for z, _ in found], [z for z, _ in expected], rtol=1e-6)
    assert_array_equal([int(size) for _, size in found], [int(size) for _, size in expected])
    places = volume.coordinates[[cluster.peak.feature for cluster in table.clusters]]
    assert {tuple(place) for place in places} == {
        tuple(row) for row in theirs[["X", "Y", "Z"]].to_numpy(float)
    }


@pytest.mark.parametrize("distance", [0.0, 4.0, 12.0])
def test_peaks_are_what_no_neighbour_exceeds_and_lie_apart(distance):
    volume = Volume(26)
    table = make_table(volume.z, volume.graph, HEIGHT, volume.coordinates, distance, 10**6)
    start, neighbour = volume.graph
    is_top = [
        (
            np.abs(volume.z[i])
            > np.sign(volume.z[i]) * volume.z[neighbour[start[i] : start[i + 1]]]
        ).all()
        for i in range(volume.z.size)
    ]
    for number, cluster in enumerate(table.clusters, 1):
        inside = np.flatnonzero((table.labels == number) & is_top)
        chosen: list[int] = []
        for i in inside[np.argsort(-np.abs(volume.z[inside]))]:
            away = [np.linalg.norm(volume.coordinates[i] - volume.coordinates[j]) for j in chosen]
            if all(gap >= distance for gap in away):
                chosen.append(i)
        assert [peak.feature for peak in (cluster.peak, *cluster.sub_peaks)] == chosen


def test_labels_sizes_and_masses_are_those_of_the_map():
    volume = Volume(18)
    table = make_table(volume.z, volume.graph, HEIGHT, volume.coordinates)
    assert_array_equal(table.labels > 0, np.abs(volume.z) > np.float32(HEIGHT))
    for number, cluster in enumerate(table.clusters, 1):
        z = volume.z[table.labels == number].astype(float)
        assert abs(np.sign(z).sum()) == z.size == cluster.size
        assert_allclose(cluster.mass, (np.abs(z) - HEIGHT).sum())
        assert cluster.peak.z == z[np.argmax(np.abs(z))]
        assert len(cluster.sub_peaks) <= 3
    positive = [cluster.size for cluster in table.clusters if cluster.peak.z > 0]
    one_sided = make_table(
        volume.z, volume.graph, HEIGHT, volume.coordinates, two_sided=False
    ).clusters
    assert table.clusters[: len(positive)] == one_sided
    assert positive == sorted(positive, reverse=True)


@pytest.mark.parametrize(
    ("values", "peaks"),
    [
        ([2, 2, 2, 0, 0, 0], [0]),  # a plateau has one peak, at its first feature
        ([3, 2, 3, 2, 2, 0], [0, 2]),
        ([2, 2, 3, 2, 2, 2], [2]),  # what a higher one touches is none
        ([3, 2, 2, 2, 3, 3], [0, 4]),
        ([2, 3, 3, 2, 4, 2], [4, 1]),
        ([0, 0, 4, 0, 0, 0], [2]),
    ],
)
def test_a_plateau_is_one_peak(values, peaks):
    steps = np.arange(6)
    line = VolumeSpace((6, 1, 1), b"", np.ones(6, bool)).find_neighbours()
    coordinates = np.column_stack([steps, 0 * steps, 0 * steps]).astype(float)
    table = make_table(np.float32(values), make_graph(line), 1.0, coordinates, distance=0.0)
    (cluster,) = table.clusters
    assert [peak.feature for peak in (cluster.peak, *cluster.sub_peaks)] == peaks


@pytest.mark.parametrize("values", [np.zeros(6), np.full(6, np.nan), np.full(6, HEIGHT)])
def test_a_map_without_clusters_has_an_empty_table(values):
    graph = make_graph(VolumeSpace((6, 1, 1), b"", np.ones(6, bool)).find_neighbours())
    table = make_table(values, graph, HEIGHT, np.zeros((6, 3)))
    assert table.clusters == []
    assert not table.labels.any()
