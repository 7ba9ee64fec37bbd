"""A space that is no volume goes through all stages: they know features, and no dimensions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.core.voxels import find_runs, gather
from nipype_blm.data import kinds
from nipype_blm.data.maps import MapInfo, write_sidecar
from nipype_blm.data.space import NO_MASK, Kind
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim
from nipype_blm.stages.run import run_model

N_OBS, N_VALUES = 12, 24
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=N_OBS)])
VALUES = RNG.normal(5, 1, (N_OBS, N_VALUES)).astype(np.float32)
VALUES[RNG.random(VALUES.shape) < 0.1] = np.nan
INSIDE = RNG.random(N_VALUES) < 0.8


class VectorHeader(NamedTuple):
    """One vector, as NumPy saves it."""

    n_values: int
    n_volumes: int = 1
    dtype: np.dtype = np.dtype("f4")
    bytes_to_read: int = 4
    fits_float32: bool = True

    def describe_size(self) -> str:
        return f"vectors of {self.n_values} values"

    def describe_difference(self, expected: "VectorHeader | None") -> str | None:
        if expected is None or expected.n_values == self.n_values:
            return None
        return f"it has {self.n_values} values, expected {expected.n_values}"


class VectorSpace(NamedTuple):
    """Some values of vectors."""

    inside: np.ndarray

    @property
    def n_features(self) -> int:
        return int(self.inside.sum())

    @property
    def positions(self) -> np.ndarray:
        return np.flatnonzero(self.inside)

    def make_reader(self, threshold=-np.inf, zero_is_missing=True):
        return VectorReader(self.inside, threshold, zero_is_missing)

    def write(self, path: Path, info: MapInfo, vectors: Iterable[np.ndarray], dtype: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, np.array(list(vectors), dtype))
        write_sidecar(path, info)

    def describe_difference(self, other):
        return None if other.inside.size == self.inside.size else "it has another length"

    def find_neighbours(self):
        raise NotImplementedError

    def pack(self):
        return {"inside": self.inside}, {}

    @classmethod
    def unpack(cls, arrays, options):
        return cls(**arrays, **options)

    @classmethod
    def of_file(cls, path, inside=None):
        return cls(np.ones(np.load(path).size, bool) if inside is None else inside)


class VectorReader(NamedTuple):
    inside: np.ndarray
    threshold: float
    zero_is_missing: bool

    def read(self, path, volume, out, inside=NO_MASK):
        missing = self.threshold, self.zero_is_missing
        return gather(np.load(path), *find_runs(self.inside), *missing, inside, out)


def inspect_vector(path: Path, state: object) -> VectorHeader:
    try:
        return VectorHeader(np.load(path).size)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no vector.") from error


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """Files of vectors, and the one line that makes them a kind of space."""
    line = Kind(VectorSpace, (".npy",), inspect_vector, lambda what, entries, headers: headers[0])
    monkeypatch.setitem(kinds.KINDS, "vector", line)
    for i, row in enumerate(VALUES):
        np.save(tmp_path / f"v{i:02}.npy", row)
    np.save(tmp_path / "mask.npy", INSIDE.astype(np.float32))
    return [str(tmp_path / f"v{i:02}.npy") for i in range(N_OBS)]


SPLIT = {"images_per_batch": 5, "voxels_per_block": 7}


def run(prepared, folder: Path) -> dict[str, Path]:
    found = run_model(prepared, folder / "work", folder / "out", Claim("", folder, False))
    return found.files


def test_vectors_give_the_numbers_of_volumes_that_have_the_same_values(prepare, vectors, tmp_path):
    shape = (4, 3, 2)
    images = np.stack([row.reshape(shape, order="F") for row in VALUES])
    mask = nib.Nifti1Image(INSIDE.reshape(shape, order="F").astype(np.uint8), np.eye(4))
    nib.save(mask, tmp_path / "mask.nii")
    of_volumes = prepare(images, X, analysis_mask=str(tmp_path / "mask.nii"), **SPLIT)
    options = {"Y_files": vectors, "analysis_mask": str(tmp_path / "mask.npy")}
    of_vectors = prepare(images, X, **options, **SPLIT)
    assert isinstance(of_vectors.spec.space, VectorSpace)
    one, other = run(of_volumes, tmp_path / "volumes"), run(of_vectors, tmp_path / "vectors")
    assert one.keys() == other.keys()
    for name, path in one.items():
        stored = np.asarray(nib.load(path).dataobj)
        expected = stored.reshape(N_VALUES, -1, order="F")[INSIDE].T
        assert_array_equal(np.load(other[name]), expected, err_msg=name)


def test_what_is_wrong_with_vectors_is_said_in_their_words(prepare, vectors):
    np.save(vectors[3], np.ones(5, np.float32))
    with pytest.raises(InputError, match=r"v03\.npy: it has 5 values, expected 24\."):
        prepare(VALUES.reshape(N_OBS, 4, 3, 2), X, Y_files=vectors)


def test_files_of_two_kinds_do_not_mix(prepare, vectors, tmp_path):
    images = VALUES.reshape(N_OBS, 4, 3, 2)
    nib.save(nib.Nifti1Image(images[0], np.eye(4)), tmp_path / "one.nii")
    one = str(tmp_path / "one.nii")
    with pytest.raises(InputError, match=r"one\.nii is no vector"):
        prepare(images, X, Y_files=[*vectors[:-1], one])
    with pytest.raises(InputError, match=r"analysis_mask .*one\.nii is not in the space of the im"):
        prepare(images, X, Y_files=vectors, analysis_mask=one)
