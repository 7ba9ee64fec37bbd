"""A space that is no volume goes through all stages: they know features, and no dimensions."""

import gzip
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from nipype_blm import Results
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.voxels import find_runs, gather
from nipype_blm.data import kinds
from nipype_blm.data.maps import MapInfo, write_sidecar
from nipype_blm.data.space import NO_MASK, Kind, check_neighbourhood
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim
from nipype_blm.model.request import Request
from nipype_blm.results.compare import compare_models
from nipype_blm.stages.plan import is_done
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
        values = np.zeros((max(1, len(info.volumes or ())), self.inside.size), dtype)
        values[:, self.inside] = list(vectors)
        with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
            np.save(file, values if info.volumes else values[0])
        write_sidecar(path, info)

    def describe_difference(self, other):
        same = np.array_equal(self.inside, other.inside)
        return None if same else f"its values are not those {self.inside.size}"

    def find_coordinates(self):
        return np.column_stack(3 * [np.flatnonzero(self.inside).astype(float)])

    @property
    def feature_size(self):
        return np.nan

    @property
    def neighbourhoods(self):
        return ()

    def find_neighbours(self, n_neighbours=None):
        """Values that follow one another touch."""
        check_neighbourhood(self, n_neighbours)
        steps = np.arange(self.inside.size)
        touch = np.abs(steps[:, None] - steps) == 1
        return csr_array(touch[np.ix_(self.inside, self.inside)])

    def pack(self):
        return {"inside": self.inside}, {}

    @classmethod
    def unpack(cls, arrays, options):
        return cls(**arrays, **options)

    @classmethod
    def of_file(cls, path, inside=None):
        return cls(np.ones(load(path).shape[-1], bool) if inside is None else inside)


def load(path: Path) -> np.ndarray:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return np.load(file)


class VectorReader(NamedTuple):
    inside: np.ndarray
    threshold: float
    zero_is_missing: bool

    def read(self, path, volume, out, inside=NO_MASK):
        missing = self.threshold, self.zero_is_missing
        return gather(
            np.atleast_2d(load(path))[volume], *find_runs(self.inside), *missing, inside, out
        )


def inspect_vector(path: Path, state: object) -> VectorHeader:
    try:
        values = np.atleast_2d(load(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no vector.") from error
    return VectorHeader(values.shape[1], len(values), values.dtype)


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """Files of vectors, and the one line that makes them a kind of space."""
    line = Kind(
        VectorSpace,
        endings=(".npy",),
        maps=(".npy", ".npy.gz"),
        inspect=inspect_vector,
        choose=lambda what, entries, headers: headers[0],
        load=lambda path: load(path).T,
    )
    monkeypatch.setitem(kinds.KINDS, "vector", line)
    for i, row in enumerate(VALUES):
        np.save(tmp_path / f"v{i:02}.npy", row)
    np.save(tmp_path / "mask.npy", INSIDE.astype(np.float32))
    return [str(tmp_path / f"v{i:02}.npy") for i in range(N_OBS)]


SPLIT = {"images_per_batch": 5, "voxels_per_block": 7}


def run(prepared, folder: Path, **options) -> dict[str, Path]:
    claim = Claim("", folder, False)
    return run_model(prepared, folder / "work", folder / "out", claim, **options).files


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
        expected = stored.reshape(N_VALUES, -1, order="F").T
        assert_array_equal(np.atleast_2d(load(other[name])), expected, err_msg=name)
        assert other[name].name == f"{name}.npy"


@pytest.mark.parametrize("compress", [False, True])
def test_maps_of_vectors_are_found_by_whoever_looks_for_maps(prepare, vectors, tmp_path, compress):
    prepared = prepare(VALUES.reshape(N_OBS, 4, 3, 2), X, Y_files=vectors, **SPLIT)
    files = run(prepared, tmp_path, compress=compress)
    request = Request(X=None, images=(), contrasts=(), out_dir=tmp_path / "out", compress=compress)
    assert is_done(prepared, request)
    assert not is_done(prepared, replace(request, compress=not compress))
    results = Results(tmp_path / "out")
    assert set(results.maps) == {name.removeprefix("blm_vox_") for name in files}
    for name, path in files.items():
        assert path.name == name + (".npy.gz" if compress else ".npy")
        stored = load(path)
        assert_array_equal(results.array(name), stored.T)
        for number, label in enumerate(results.describe(name).get("Volumes", [])):
            assert_array_equal(results.array(name, label), stored[number])
    z = results.contrasts["last"]
    assert_array_equal(z.array("z"), load(z.path("z")))
    assert_array_equal(z.vector("z"), z.array("z")[results.inside])
    assert_array_equal(results.vector("beta", 1), results.array("beta", 1)[results.inside])
    assert results.space.find_neighbours().shape == 2 * (results.n_fitted,)
    assert_array_equal(results.mask, results.inside)
    assert results.n_fitted == results.inside.sum() > 0
    with pytest.raises(
        InputError, match=r"blm_vox_beta\.npy.* is no image for nibabel; take it as"
    ):
        results.image("beta")
    (files["blm_vox_beta"]).unlink()
    assert not is_done(prepared, request)


def test_models_of_vectors_are_compared(prepare, vectors, tmp_path):
    """As those of volumes with the same values are."""
    subject = RandomFactor("subject", np.arange(N_OBS, dtype=np.int32) // 3, X[:, :1])
    images = VALUES.reshape(N_OBS, 2, 3, 4).transpose(0, 3, 2, 1)
    compared = {}
    for kind, fields in (("volumes", {}), ("vectors", {"Y_files": vectors})):
        folders = []
        for model, factors in (("blm", ()), ("blmm", (subject,))):
            folder = tmp_path / kind / model
            run(prepare(images, X, *factors, **fields), folder)
            folders.append(folder / "out")
        out = tmp_path / kind / "compared"
        compared[kind] = compare_models(*folders, out, tmp_path / kind).files
        with pytest.raises(InputError, match="holds the results of a run"):
            compare_models(*folders, folders[0], tmp_path / kind)
    assert compared["volumes"].keys() == compared["vectors"].keys()
    for name, path in compared["vectors"].items():
        assert path.name == f"{name}.npy"
        expected = np.asarray(nib.load(compared["volumes"][name]).dataobj)
        assert_array_equal(load(path), expected.ravel(order="F"))


def test_maps_of_vectors_are_not_written_over(prepare, vectors, tmp_path):
    images = VALUES.reshape(N_OBS, 4, 3, 2)
    out = tmp_path / "study" / "out"
    out.mkdir()
    np.save(out / "blmm_vox_beta.npy", VALUES[0])
    with pytest.raises(InputError, match=r"has maps of blmm \(blmm_vox_beta\.npy\)"):
        prepare(images, X, Y_files=vectors)
    (out / "blmm_vox_beta.npy").rename(out / "blm_vox_beta.npy")
    with pytest.raises(InputError, match=r"blm_vox_beta\.npy is read, but the maps would replace"):
        prepare(images, X, Y_files=[*vectors[1:], str(out / "blm_vox_beta.npy")])


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
