"""What every space has to do, whatever its features are: the same tests for each kind of them.

A new kind adds a sample; `test_every_kind_of_the_table_has_a_sample` asks for it.
"""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.data.kinds import (
    KINDS,
    find_kind,
    find_map,
    load_map,
    look_at,
    name_map,
    open_space,
    pack_space,
    unpack_space,
)
from nipype_blm.data.maps import MapInfo, read_sidecar
from nipype_blm.data.space import Space
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0.5, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])
# In file order, with holes.
INSIDE = np.random.default_rng(1).random(60) < 0.7


class Sample(NamedTuple):
    """A space, and what is known of it without its code."""

    space: Space
    file: Path  # one that has two observations
    values: np.ndarray  # those in the file, (2, n_values)
    inside: np.ndarray  # (n_values,), which of them are features
    others: dict[str, Space]  # by words that say how each of them differs
    are_neighbours: Callable[[int, int], bool]  # of two features, by their positions


def make_values(seed: int, n: int) -> np.ndarray:
    """Return some values, of which some are 0 or none."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (2, n)).astype(np.float32) / 4
    values[:, rng.random(n) < 0.1] = np.nan
    return values


def save_image(path: Path, values: np.ndarray, shape=SHAPE, affine=AFFINE) -> Path:
    volumes = [row.reshape(shape, order="F") for row in values]
    nib.save(nib.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), affine), path)
    return path


def touch(one: int, other: int, shape=SHAPE, most_different: int = 3) -> bool:
    """Return whether two voxels share a face, an edge or a corner."""
    a, b = (np.array(np.unravel_index(position, shape, order="F")) for position in (one, other))
    return np.abs(a - b).max() == 1 and np.count_nonzero(a - b) <= most_different


def make_volumes(folder: Path) -> Sample:
    values = make_values(0, 60)
    file = save_image(folder / "image.nii", values)
    moved = AFFINE + np.eye(4, k=3)
    larger = make_values(0, 80)
    fewer = INSIDE.copy()
    fewer[np.flatnonzero(INSIDE)[:2]] = False
    others = {
        r"its shape is \(5, 4, 4\), expected \(5, 4, 3\)": open_space(
            save_image(folder / "larger.nii", larger, (5, 4, 4)), larger[0] > 0
        ),
        "its affine is .*91.* expected .*90": open_space(
            save_image(folder / "moved.nii", values, affine=moved), INSIDE
        ),
        "its mask has 0 voxels more and lacks 2 others": open_space(file, fewer),
    }
    return Sample(open_space(file, INSIDE), file, values, INSIDE, others, touch)


SAMPLES = {"volume": make_volumes}


@pytest.fixture(params=SAMPLES)
def sample(request, tmp_path):
    return SAMPLES[request.param](tmp_path)


def read(space: Space, path: Path, volume: int = 0, **options) -> np.ndarray:
    row = np.empty(space.n_features)
    space.make_reader(**options).read(path, volume, row)
    return row


def test_every_kind_of_the_table_has_a_sample(sample):
    assert set(SAMPLES) == set(KINDS)
    assert isinstance(sample.space, find_kind(sample.file).space)


def test_features_are_the_values_inside_in_the_order_of_the_file(sample):
    np.testing.assert_array_equal(sample.space.positions, np.flatnonzero(sample.inside))
    assert sample.space.n_features == np.count_nonzero(sample.inside)


def test_a_file_without_a_mask_has_all_its_values_as_features(sample):
    space = open_space(sample.file)
    assert space.n_features == look_at(sample.file)[1].n_values == sample.inside.size


@pytest.mark.parametrize("volume", [0, 1])
def test_an_observation_is_read_into_a_row(sample, volume):
    found = read(sample.space, sample.file, volume, zero_is_missing=False)
    np.testing.assert_array_equal(found, sample.values[volume][sample.inside])


def test_zeros_and_values_below_a_threshold_can_be_missing(sample):
    values = sample.values[0][sample.inside]
    found = read(sample.space, sample.file, threshold=-0.25)
    np.testing.assert_array_equal(
        found, np.where((values >= -0.25) & (values != 0), values, np.nan)
    )


def test_missing_values_are_counted_also_those_outside_an_own_mask(sample):
    values = sample.values[0][sample.inside]
    inside = np.where(np.arange(values.size) % 3, 1.0, np.nan)
    row = np.empty(values.size)
    counts = sample.space.make_reader().read(sample.file, 0, row, inside)
    is_missing = np.isnan(values) | (values == 0) | np.isnan(inside)
    np.testing.assert_array_equal(np.isnan(row), is_missing)
    assert counts.missing == is_missing.sum()
    assert counts.zero == ((values == 0) & ~np.isnan(inside)).sum()


def test_one_reader_serves_several_threads(sample):
    reader = sample.space.make_reader(zero_is_missing=False)

    def read_one(volume):
        row = np.empty(sample.space.n_features)
        reader.read(sample.file, volume, row)
        return row

    volumes = [0, 1] * 20
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_one, volumes))
    np.testing.assert_array_equal(found, sample.values[volumes][:, sample.inside])


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_written_as_a_map_are_read_back(sample, tmp_path, dtype, compress):
    vectors = np.random.default_rng(2).normal(size=(3, sample.space.n_features)).astype(dtype)
    path = tmp_path / "maps" / name_map(sample.space, "m", compress)
    info = MapInfo("m", "A map.", "z score", volumes=("a", "b", "c"))
    sample.space.write(path, info, iter(vectors), np.dtype(dtype))
    found = [read(sample.space, path, volume) for volume in range(3)]
    np.testing.assert_array_equal(found, vectors)
    assert read_sidecar(path)["Volumes"] == ["a", "b", "c"]
    assert find_map(path.parent, "m") == path
    stored = np.asarray(load_map(path)).reshape(-1, 3, order="F")
    np.testing.assert_array_equal(stored[sample.inside].T, vectors)
    assert stored.dtype == dtype
    whole = open_space(path)
    assert sample.space.describe_difference(open_space(path, sample.inside)) is None
    assert not read(whole, path, zero_is_missing=False)[~sample.inside].any()


def test_a_space_differs_from_others_and_says_how(sample):
    assert sample.space.describe_difference(sample.space) is None
    for words, other in sample.others.items():
        assert re.search(words, sample.space.describe_difference(other))
        assert other.describe_difference(sample.space) is not None


def test_headers_differ_as_their_spaces_do_but_for_masks(sample):
    header = look_at(sample.file)[1]
    assert header.describe_difference(header) is None
    assert header.describe_difference(None) is None
    assert header.n_volumes == 2


def test_a_space_is_packed_into_arrays_and_what_json_can_hold(sample):
    arrays, options = pack_space(sample.space)
    copies = {name: array.copy() for name, array in arrays.items()}
    found = unpack_space(copies, json.loads(json.dumps(options)))
    assert type(found) is type(sample.space)
    assert sample.space.describe_difference(found) is None
    again, same_options = pack_space(found)
    assert same_options == options
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    np.testing.assert_array_equal(read(found, sample.file), read(sample.space, sample.file))


def test_spaces_that_differ_are_packed_differently(sample):
    def pack(space):
        arrays, options = pack_space(space)
        return repr(options), *(array.tobytes() for array in arrays.values())

    packed = {pack(space) for space in (sample.space, *sample.others.values())}
    assert len(packed) == 1 + len(sample.others)


def test_neighbours_are_those_that_touch_in_both_directions(sample):
    graph = sample.space.find_neighbours()
    n = sample.space.n_features
    assert (graph.shape, graph.dtype) == ((n, n), bool)
    found = graph.toarray()
    np.testing.assert_array_equal(found, found.T)
    assert not found.diagonal().any()
    positions = np.flatnonzero(sample.inside)
    expected = [[sample.are_neighbours(one, other) for other in positions] for one in positions]
    np.testing.assert_array_equal(found, expected)


def test_a_number_of_neighbours_that_a_space_has_not_is_refused(sample):
    known = sample.space.neighbourhoods
    default = sample.space.find_neighbours()
    if known:
        assert (default != sample.space.find_neighbours(known[0])).nnz == 0
    with pytest.raises(InputError, match="7 neighbours are asked for"):
        sample.space.find_neighbours(7)


# ------------------------------------------------------------------------------- volumes


@pytest.mark.parametrize(("n_neighbours", "most_different"), [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("shape", [(4, 5, 3), (6, 1, 4), (1, 1, 9), (3, 3, 3)])
def test_voxels_touch_by_faces_edges_or_corners(n_neighbours, most_different, shape):
    n = int(np.prod(shape))
    mask = np.random.default_rng(3).random(n) < 0.75
    graph = VolumeSpace(shape, b"", mask).find_neighbours(n_neighbours)
    positions = np.flatnonzero(mask)
    expected = [[touch(a, b, shape, most_different) for b in positions] for a in positions]
    np.testing.assert_array_equal(graph.toarray(), expected)


@pytest.mark.parametrize("n_neighbours", [6, 18, 26])
def test_a_voxel_inside_a_full_cube_has_all_its_neighbours(n_neighbours):
    graph = VolumeSpace((3, 3, 3), b"", np.ones(27, bool)).find_neighbours(n_neighbours)
    assert graph.sum(axis=1)[13] == n_neighbours


def test_voxels_have_places_and_a_size_in_mm():
    affine = np.array([[-3.0, 0, 0, 9], [0, 2, 0.5, -4], [0, 0, 4, 1], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros((4, 3, 2), np.float32), affine)
    template = bytes(image.header.binaryblock)
    mask = np.arange(24) % 5 < 3
    space = VolumeSpace((4, 3, 2), template, mask)
    voxels = np.argwhere(np.ones((2, 3, 4)))[mask][:, ::-1]
    np.testing.assert_allclose(space.find_coordinates(), nib.affines.apply_affine(affine, voxels))
    assert space.feature_size == pytest.approx(24.0)


def test_voxels_at_opposite_faces_do_not_touch():
    """Though one follows the other in the file."""
    graph = VolumeSpace((3, 2, 1), b"", np.ones(6, bool)).find_neighbours(6)
    assert not graph.toarray()[2, 3]
